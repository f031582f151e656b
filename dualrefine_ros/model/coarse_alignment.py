"""A better first guess of the pose: feature-metric alignment from coarse to fine, an addition of ours.

Gauss-Newton finds a pose only from within a pixel or two of it. The pose network's guess is good enough for
that on roads like those of its training; where the camera turns by 2 degrees and more between two frames it
is not, and the refiner settles somewhere else. On maps of 1/16 and 1/8 of the image the same pixel or two are
four times and twice as wide.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d

from dualrefine_ros.model.pose_alignment import gauss_newton_step
from dualrefine_ros.model.refiner import MatchingFeatures

SHRINKS = (4, 2)  # of the features' maps, in this order


def shrunk_intrinsics(intrinsics: Tensor, shrink: int) -> Tensor:
    """Intrinsics (B, 4) of a map of means of ``shrink x shrink`` pixels, whose centres are integers."""
    focal, centre = intrinsics.split(2, 1)
    return torch.cat((focal / shrink, (centre - (shrink - 1) / 2) / shrink), 1)


def coarse_pose(
    cur: MatchingFeatures,
    prev: MatchingFeatures,
    depth: Tensor,
    T_prev_cur: Tensor,
    intrinsics: Tensor,
    steps: int,
    depth_deviation: float,
) -> Tensor:
    """T_prev_cur (B, 4, 4) after Gauss-Newton steps on coarse maps; what cannot be solved stays as it is.

    Args:
        cur, prev: matching features and confidence of both frames, (B, ., h, w).
        depth: (B, 1, h, w) metres, of the current frame.
        T_prev_cur: (B, 4, 4), the guess to start from.
        intrinsics: (B, 4) at (h, w).
        steps: on each of the maps.
        depth_deviation: see :func:`~dualrefine_ros.model.pose_alignment.gauss_newton_step`.
    """
    for shrink in SHRINKS:
        K = shrunk_intrinsics(intrinsics, shrink)
        small_depth, match_cur, match_prev, confidence_cur, confidence_prev = (
            avg_pool2d(values.float(), shrink)
            for values in (depth, cur.features, prev.features, cur.confidence, prev.confidence)
        )
        for _ in range(steps):
            T_prev_cur = gauss_newton_step(
                small_depth,
                T_prev_cur,
                K,
                match_cur,
                match_prev,
                confidence_cur,
                confidence_prev,
                depth_deviation=depth_deviation,
            ).T_prev_cur
    return T_prev_cur
