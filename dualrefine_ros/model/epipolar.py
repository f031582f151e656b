"""Matching cost of depth candidates along the epipolar line (paper, Sec. 3.2.1, Eq. 5)."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d, grid_sample

from dualrefine_ros.geometry.camera import project, rays, sampling_grid
from dualrefine_ros.model.precision import full_precision

RADIUS = 8  # r: candidates on either side of the current depth
CANDIDATES = 2 * RADIUS + 1
LEVELS = 3  # resolutions of the previous frame's features, and widths of the search
COSTS = LEVELS * CANDIDATES


def feature_levels(match_prev: Tensor) -> list[Tensor]:
    """Features (B, C, h, w) at 1, 1/2 and 1/4 of their resolution."""
    levels = [match_prev.float()]
    for _ in range(LEVELS - 1):
        levels.append(avg_pool2d(levels[-1], 2))
    return levels


@full_precision
def depth_candidates(depth: Tensor, max_update: Tensor) -> Tensor:
    """The candidates ``depth + k/r 2^level g``, k = -r..r.

    Args:
        depth: (B, 1, h, w) metres.
        max_update: g, (B, 1, h, w) metres, half the width of the finest search.

    Returns:
        (B, LEVELS * CANDIDATES, h, w) metres, level-major.
    """
    k = torch.arange(-RADIUS, RADIUS + 1, device=depth.device, dtype=depth.dtype) / RADIUS
    steps = torch.cat([2**level * k for level in range(LEVELS)])
    return depth + steps[None, :, None, None] * max_update


@full_precision
def epipolar_coordinates(candidates: Tensor, T_prev_cur: Tensor, intrinsics: Tensor) -> Tensor:
    """Where each depth candidate of each pixel lies in the previous frame.

    Args:
        candidates: (B, N, h, w) metres.
        T_prev_cur: (B, 4, 4).
        intrinsics: (B, 4) at this map's size.

    Returns:
        (B, 2, N, h, w) pixels.
    """
    h, w = candidates.shape[-2:]
    directions = rays(intrinsics, h, w).flatten(2)
    rotated = (T_prev_cur[:, :3, :3] @ directions).view(-1, 3, 1, h, w)
    translation = T_prev_cur[:, :3, 3].view(-1, 3, 1, 1, 1)
    return project(candidates[:, None] * rotated + translation, intrinsics)


@full_precision
def sample(features: Tensor, pixels: Tensor, height: int, width: int) -> Tensor:
    """Bilinear samples (B, C, m, n) at pixels (B, 2, m, n) of a ``height x width`` map; zero outside.

    The features (B, C, ., .) may have another resolution than the map whose pixels are counted.
    """
    return grid_sample(features, sampling_grid(pixels, height, width), align_corners=False)


@full_precision
def matching_cost(match_cur: Tensor, match_prev: Tensor, pixels: Tensor) -> Tensor:
    """Mean over channels of ``|m_cur - m_prev(pixels)|`` for N candidates of every pixel.

    Args:
        match_cur: (B, C, h, w).
        match_prev: (B, C, ., .), of any resolution of the same view.
        pixels: (B, 2, N, h, w), in pixels of the (h, w) map.

    Returns:
        (B, N, h, w).
    """
    B, _, N, h, w = pixels.shape
    samples = sample(match_prev, pixels.reshape(B, 2, N * h, w), h, w).view(B, -1, N, h, w)
    return (match_cur[:, :, None] - samples).abs().mean(1)


def epipolar_cost(match_cur: Tensor, match_prev_levels: list[Tensor], pixels: Tensor) -> Tensor:
    """Costs (B, LEVELS * CANDIDATES, h, w) at the coordinates of :func:`epipolar_coordinates`."""
    per_level = pixels.chunk(LEVELS, 2)
    costs = [
        matching_cost(match_cur, features, at)
        for features, at in zip(match_prev_levels, per_level, strict=True)
    ]
    return torch.cat(costs, 1)
