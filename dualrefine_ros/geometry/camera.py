"""Pinhole projection of dense maps, in PyTorch.

Intrinsics are (B, 4): fx, fy, cx, cy in pixels of the map at hand. Pixel centres are integers. Points
are (B, 3, h, w) in metres, optical axes; pixels are (B, 2, h, w) as (u, v).
"""

from __future__ import annotations

import torch
from torch import Tensor

MAX_INVERSE_DEPTH = 100.0  # 1/Z is cut here, so that points close to the camera plane stay finite


def pixel_grid(height: int, width: int, device: torch.device, dtype: torch.dtype) -> Tensor:
    """The (2, h, w) pixel coordinates (u, v) of a map."""
    v, u = torch.meshgrid(
        torch.arange(height, device=device, dtype=dtype),
        torch.arange(width, device=device, dtype=dtype),
        indexing="ij",
    )
    return torch.stack((u, v))


def rays(intrinsics: Tensor, height: int, width: int) -> Tensor:
    """Points at depth 1 behind every pixel: (B, 3, h, w)."""
    u, v = pixel_grid(height, width, intrinsics.device, intrinsics.dtype)
    fx, fy, cx, cy = intrinsics[:, :, None, None].unbind(1)  # each (B, 1, 1)
    x, y = (u - cx) / fx, (v - cy) / fy
    return torch.stack((x, y, torch.ones_like(x)), 1)


def back_project(depth: Tensor, intrinsics: Tensor) -> Tensor:
    """Depth (B, 1, h, w) to points (B, 3, h, w)."""
    return depth * rays(intrinsics, *depth.shape[-2:])


def transform(T_target_source: Tensor, points: Tensor) -> Tensor:
    """Move points (B, 3, ...) from the source frame to the target frame by (B, 4, 4)."""
    flat = points.flatten(2)
    moved = T_target_source[:, :3, :3] @ flat + T_target_source[:, :3, 3:]
    return moved.view_as(points)


def inverse_depth(points: Tensor) -> Tensor:
    """min(1/Z, 100) of (B, 3, ...) points; negative Z is not treated specially."""
    return points[:, 2].reciprocal().clamp(max=MAX_INVERSE_DEPTH)


def project(points: Tensor, intrinsics: Tensor) -> Tensor:
    """Points (B, 3, ...) to pixels (B, 2, ...)."""
    trailing = (1,) * (points.dim() - 2)
    fx, fy, cx, cy = (c.view(-1, *trailing) for c in intrinsics.unbind(1))
    inv_z = inverse_depth(points)
    return torch.stack((fx * points[:, 0] * inv_z + cx, fy * points[:, 1] * inv_z + cy), 1)


def sampling_grid(pixels: Tensor, height: int, width: int) -> Tensor:
    """Pixels (B, 2, h, w) of a ``height x width`` map to the (B, h, w, 2) grid of ``grid_sample``.

    For ``align_corners=False``: 2 (u + 0.5) / w - 1.
    """
    scale = pixels.new_tensor((2.0 / width, 2.0 / height))
    return (pixels.movedim(1, -1) + 0.5) * scale - 1.0
