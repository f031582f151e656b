"""Where matching agrees with the teacher (paper, Sec. 3.3; ManyDepth, Watson et al., CVPR 2021)."""

from __future__ import annotations

import torch
from torch import Tensor

from dualrefine_ros.model.epipolar import epipolar_coordinates
from dualrefine_ros.model.sampling import choose

CANDIDATES = 96  # depths tried at every pixel
DEEPEST = 8.0  # times the teacher's depth: the farthest of them
AGREEMENT = 2.0  # factor between the two depths at which they stop agreeing


@torch.no_grad()
def coarse_depth(
    match_cur: Tensor,
    match_prev: Tensor,
    depth_teacher: Tensor,
    T_prev_cur: Tensor,
    intrinsics: Tensor,
    depth_range: tuple[float, float],
) -> Tensor:
    """The candidate with the lowest matching cost.

    Candidates are spaced linearly from ``d_min`` to ``min(8 (depth - d_min) + d_min, d_max)``.

    Args:
        match_cur, match_prev: (B, C, h, w).
        depth_teacher: (B, 1, h, w) metres.
        T_prev_cur: (B, 4, 4).
        intrinsics: (B, 4) at this size.
        depth_range: d_min, d_max.

    Returns:
        (B, 1, h, w) metres.
    """
    d_min, d_max = depth_range
    farthest = (DEEPEST * (depth_teacher - d_min) + d_min).clamp(max=d_max)
    share = torch.linspace(0, 1, CANDIDATES, device=depth_teacher.device)[None, :, None, None]
    candidates = d_min + share * (farthest - d_min)
    pixels = epipolar_coordinates(candidates, T_prev_cur, intrinsics)
    sampler = choose("auto", pixels.device)
    best = sampler.epipolar_cost(match_cur, [match_prev], pixels).argmin(1, keepdim=True)
    return candidates.gather(1, best)


def consistent(coarse: Tensor, depth_teacher: Tensor) -> Tensor:
    """Where two depths differ by less than a factor 2 either way: (B, 1, h, w) bool."""
    ratio = coarse / depth_teacher
    return (ratio < AGREEMENT) & (ratio > 1 / AGREEMENT)
