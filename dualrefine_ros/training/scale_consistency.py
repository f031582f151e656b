"""Neighbouring depths should be of one scale: what photometric losses alone do not ask for.

Bian et al., "Unsupervised Scale-consistent Depth and Ego-motion Learning from Monocular Video", NeurIPS 2019,
Eq. 3: the relative difference of one frame's depth, moved into the other, and the depth seen there.
"""

from __future__ import annotations

from torch import Tensor

from dualrefine_ros.geometry.camera import MAX_INVERSE_DEPTH, back_project, project, transform
from dualrefine_ros.model.sampling import plain
from dualrefine_ros.training.reduction import masked_mean


def scale_inconsistency(
    depth: Tensor, depth_prev: Tensor, T_prev_cur: Tensor, intrinsics: Tensor, trusted: Tensor
) -> Tensor:
    """Mean of ``|Z - D| / (Z + D)``, a scalar in [0, 1), over trusted pixels that the previous frame shows.

    Z is the depth of the current frame's points in the previous camera, D the previous frame's depth there.

    Args:
        depth, depth_prev: (B, 1, h, w), of both frames.
        T_prev_cur: (B, 4, 4).
        intrinsics: (B, 4) at this size.
        trusted: (B, 1, h, w) bool.
    """
    h, w = depth.shape[-2:]
    points = transform(T_prev_cur, back_project(depth, intrinsics))
    pixels = project(points, intrinsics).nan_to_num()
    u, v = pixels.detach().split(1, 1)
    seen = (
        (points[:, 2:].detach() > 1 / MAX_INVERSE_DEPTH) & (u >= 0) & (u <= w - 1) & (v >= 0) & (v <= h - 1)
    )
    moved, there = points[:, 2:], plain.sample(depth_prev, pixels, h, w)
    difference = (moved - there).abs() / (moved.abs() + there).clamp(min=1e-6)
    return masked_mean(difference, seen & trusted)
