"""A better first guess of the pose: feature-metric alignment from coarse to fine, an addition of ours.

Gauss-Newton finds a pose only from within a pixel or two of it. The pose network's guess is good enough for
that on roads like those of its training; where the camera turns by 2 degrees and more between two frames it
is not, and the refiner settles somewhere else. On maps of 1/16 and 1/8 of the image the same pixel or two are
four times and twice as wide.

The coarsest map turns the camera about itself and does nothing else: while it is turned wrongly by many
pixels, other steps would go to wherever they explain the turn. What comes of it replaces the guess only if it
explains the images clearly better; frames that have nothing to do with each other can always be made a
little more alike.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d, pad

from dualrefine_ros.geometry.camera import pixel_grid, project, rays
from dualrefine_ros.geometry.se3 import se3_exp
from dualrefine_ros.model.pose_alignment import AlignmentSystem, alignment_system, solve_alignment, solve_step
from dualrefine_ros.model.precision import full_precision
from dualrefine_ros.model.refiner import MatchingFeatures
from dualrefine_ros.model.sampling import plain

Moments = Callable[[Tensor, Tensor, Tensor], Tensor]

COARSEST, COARSE = 4, 2  # pixels of the features' map, along each axis, that are one of such a map
DEPTH_DEVIATION = 1.0  # of the teacher's log depth; more, and a slow camera among moving cars turns with them
LEFT = 0.8  # of the guess's mean squared residual, at most: turns 0.2 to 0.7, unrelated frames 0.8 to 1
OVERLAP = 0.5  # of what the guess sees of the previous frame, at least
REACH = 1.0  # pixels of the features' map: a guess that turns less wrongly is the refiner's business
SUSPICION = 0.5  # of such pixels: where the coarsest map turns less, the next is not asked


@full_precision
def coarse_pose(
    cur: MatchingFeatures,
    prev: MatchingFeatures,
    depth: Tensor,
    T_prev_cur: Tensor,
    intrinsics: Tensor,
    steps: int,
    alignment_moments: Moments = plain.alignment_moments,
) -> Tensor:
    """T_prev_cur (B, 4, 4) after Gauss-Newton steps on coarse maps, where the guess was out of reach.

    The guess stays where the steps turn the image by less than a pixel, which the fine map sees better, where
    they do not explain the images much better, and where they cannot be solved.

    Args:
        cur, prev: matching features and confidence of both frames, (B, ., h, w).
        depth: (B, 1, h, w) metres, of the current frame.
        T_prev_cur: (B, 4, 4), the guess to start from.
        intrinsics: (B, 4) at (h, w).
        steps: on each of the maps.
        alignment_moments: the sampler's.
    """
    maps, size = (cur, prev, depth, intrinsics, alignment_moments), depth.shape[-2:]
    coarsest, T = alignment_on(COARSEST, *maps), T_prev_cur
    for _ in range(steps):
        T = turned(coarsest(T), T)
    suspicious = image_turn(T_prev_cur, T, intrinsics, *size) > SUSPICION
    if not bool(suspicious.any()):  # nearly always, and most of the time is saved
        return T_prev_cur
    coarse = alignment_on(COARSE, *maps)
    for _ in range(steps):
        T = solve_alignment(coarse(T), T, cur.features.shape[1]).T_prev_cur
    before, after = coarse(T_prev_cur), coarse(T)
    far = image_turn(T_prev_cur, T, intrinsics, *size) > REACH
    accepted = suspicious & far & explains_better(after, before)
    return torch.where(accepted[:, None, None], T, T_prev_cur)


def alignment_on(
    shrink: int,
    cur: MatchingFeatures,
    prev: MatchingFeatures,
    depth: Tensor,
    intrinsics: Tensor,
    alignment_moments: Moments,
) -> Callable[[Tensor], AlignmentSystem]:
    """The normal equations as a function of T_prev_cur, on maps of means of ``shrink x shrink`` pixels."""
    K = shrunk_intrinsics(intrinsics, shrink)
    small_depth, match_cur, match_prev, confidence_cur, confidence_prev = (
        avg_pool2d(values.float(), shrink)
        for values in (depth, cur.features, prev.features, cur.confidence, prev.confidence)
    )

    def system(T_prev_cur: Tensor) -> AlignmentSystem:
        return alignment_system(
            small_depth,
            T_prev_cur,
            K,
            match_cur,
            match_prev,
            confidence_cur,
            confidence_prev,
            alignment_moments,
            DEPTH_DEVIATION,
        )

    return system


def shrunk_intrinsics(intrinsics: Tensor, shrink: int) -> Tensor:
    """Intrinsics (B, 4) of a map of means of ``shrink x shrink`` pixels, whose centres are integers."""
    focal, centre = intrinsics.split(2, 1)
    return torch.cat((focal / shrink, (centre - (shrink - 1) / 2) / shrink), 1)


def turned(system: AlignmentSystem, T_prev_cur: Tensor) -> Tensor:
    """T_prev_cur (B, 4, 4) after the step about the previous camera's centre that a system asks for."""
    rotation, _ = solve_step(system.H[:, 3:, 3:], system.b[:, 3:])
    return se3_exp(pad(rotation, (3, 0))) @ T_prev_cur


def explains_better(after: AlignmentSystem, before: AlignmentSystem) -> Tensor:
    """Whether (B,) a pose leaves clearly less of the residuals than another, on much the same pixels."""
    seen_after, seen_before = (system.weight.sum((1, 2, 3)) for system in (after, before))
    less = after.squares / seen_after < LEFT * before.squares / seen_before  # never, where nothing is seen
    return less & (seen_after >= OVERLAP * seen_before)


def image_turn(A: Tensor, B: Tensor, intrinsics: Tensor, height: int, width: int) -> Tensor:
    """Pixels (B,), mean over a map, by which the previous image turns between poses A and B (B, 4, 4)."""
    far = rays(intrinsics, height, width)
    R = B[:, :3, :3] @ A[:, :3, :3].transpose(1, 2)
    pixels = pixel_grid(height, width, intrinsics.device, intrinsics.dtype)
    shift = project((R @ far.flatten(2)).view_as(far), intrinsics) - pixels
    return torch.linalg.vector_norm(shift, dim=1).mean((1, 2))
