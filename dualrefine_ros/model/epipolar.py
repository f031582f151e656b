"""Depth candidates, and where they lie along the epipolar line (paper, Sec. 3.2.1, Eq. 5)."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d

from dualrefine_ros.geometry.camera import project, rays
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
