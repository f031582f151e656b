"""A better first guess of the pose: feature-metric alignment from coarse to fine, an addition of ours.

Gauss-Newton finds a pose only from within a pixel or two of it. The pose network's guess is good enough for
that on roads like those of its training; where the camera turns by 2 degrees and more between two frames it
is not, and the refiner settles somewhere else. On maps of 1/16 and 1/8 of the image the same pixel or two are
four times and twice as wide.
"""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d

from dualrefine_ros.model.pose_alignment import AlignmentSystem, alignment_system, solve_alignment
from dualrefine_ros.model.refiner import MatchingFeatures

SHRINKS = (4, 2)  # of the features' maps, in this order
DEPTH_DEVIATION = 1.0  # of the teacher's log depth; more, and a slow camera among moving cars turns with them
REACH = 1.0  # pixels of the features' map: a guess that turns less wrongly is the refiner's business


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
) -> Tensor:
    """T_prev_cur (B, 4, 4) after Gauss-Newton steps on coarse maps, where the guess was out of reach.

    The guess stays where the steps turn it by less than a pixel, which the fine map sees better, or where
    they explain the images no better.

    Args:
        cur, prev: matching features and confidence of both frames, (B, ., h, w).
        depth: (B, 1, h, w) metres, of the current frame.
        T_prev_cur: (B, 4, 4), the guess to start from.
        intrinsics: (B, 4) at (h, w).
        steps: on each of the maps; 0 returns the guess.
    """
    if steps == 0:
        return T_prev_cur
    T = T_prev_cur
    for shrink in SHRINKS:
        K = shrunk_intrinsics(intrinsics, shrink)
        small_depth, match_cur, match_prev, confidence_cur, confidence_prev = (
            avg_pool2d(values.float(), shrink)
            for values in (depth, cur.features, prev.features, cur.confidence, prev.confidence)
        )

        system = partial(
            alignment_system,
            small_depth,
            intrinsics=K,
            match_cur=match_cur,
            match_prev=match_prev,
            confidence_cur=confidence_cur,
            confidence_prev=confidence_prev,
            depth_deviation=DEPTH_DEVIATION,
        )
        for _ in range(steps):
            T = solve_alignment(system(T_prev_cur=T), T, match_cur.shape[1]).T_prev_cur
    better = mean_square(system(T_prev_cur=T)) < mean_square(system(T_prev_cur=T_prev_cur))
    far = rotation_angle(T, T_prev_cur) * intrinsics[:, 0] > REACH
    return torch.where((better & far)[:, None, None], T, T_prev_cur)


def mean_square(system: AlignmentSystem) -> Tensor:
    """The weighted mean (B,) of a pixel's squared residual; NaN without a pixel."""
    return system.squares / system.weight.sum((1, 2, 3))


def rotation_angle(A: Tensor, B: Tensor) -> Tensor:
    """Radians (B,) between the rotations of two poses (B, 4, 4)."""
    R = A[:, :3, :3].transpose(1, 2) @ B[:, :3, :3]
    sine = torch.linalg.vector_norm(R - R.transpose(1, 2), dim=(1, 2)) / 8**0.5
    return torch.atan2(sine, (R.diagonal(dim1=1, dim2=2).sum(1) - 1) / 2)
