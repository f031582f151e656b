"""The network in training: a fixed point without gradients, then updates with (paper, Sec. 3.2.3)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from dualrefine_ros.model.backbones import normalise
from dualrefine_ros.model.disparity import UPSAMPLING
from dualrefine_ros.model.dualrefine import DualRefine
from dualrefine_ros.training.consistency import coarse_depth, consistent
from dualrefine_ros.training.recipe import Estimates, RecipeConfig


@dataclass(frozen=True)
class TeacherOutputs:
    """What the teachers say.

    Args:
        disparities: by scale (0, 2, 3), (B, 1, H / 2^scale, W / 2^scale) in [0, 1].
        T_prev_cur, T_next_cur: (B, 4, 4).
        disparity_prev: (B, 1, H / 4, W / 4), of the previous image; None where no loss asks for it.
    """

    disparities: dict[int, Tensor]
    T_prev_cur: Tensor
    T_next_cur: Tensor
    disparity_prev: Tensor | None = None


@dataclass(frozen=True)
class RefinedOutputs:
    """What the refiner says.

    Args:
        disparities: by scale (0, 2), (B, 1, H / 2^scale, W / 2^scale) in [0, 1].
        T_prev_cur: (B, 4, 4).
        consistency_mask: (B, 1, H/4, W/4) bool, where matching agrees with the teacher.
        weight: (B, 1, H/4, W/4), what each pixel counted in the pose.
        fixed_point_change: relative change of the state in the solver's last evaluation; None without one.
        failed: (B,) bool, where an update with gradient could not be made.
    """

    disparities: dict[int, Tensor]
    T_prev_cur: Tensor
    consistency_mask: Tensor
    weight: Tensor
    fixed_point_change: Tensor | None
    failed: Tensor


def teach(
    model: DualRefine, prev: Tensor, cur: Tensor, following: Tensor, recipe: RecipeConfig = RecipeConfig()
) -> TeacherOutputs:
    """The teachers alone, on images (B, 3, H, W) in [0, 1]; the refiner is not run."""
    pyramid = model.depth_backbone(normalise(cur))
    eighth, d4 = model.depth_decoder.eighth_and_quarter(pyramid)
    _, hidden = model.refiner.context_and_hidden(d4)
    quarter = model.depth_decoder.disparity_at(2, d4).float()
    disparities = {
        0: model.upsample(quarter, hidden),
        2: quarter,
        3: model.depth_decoder.disparity_at(3, eighth).float(),
    }
    return TeacherOutputs(
        disparities,
        model.teacher_pose(cur, prev),
        model.teacher_pose_to_next(cur, following),
        _disparity_prev(model, prev, recipe),
    )


def _disparity_prev(model: DualRefine, prev: Tensor, recipe: RecipeConfig) -> Tensor | None:
    return model.teacher_disparity(prev) if recipe.scale_consistency else None


def teach_and_refine(
    model: DualRefine,
    prev: Tensor,
    cur: Tensor,
    following: Tensor,
    intrinsics: Tensor,
    recipe: RecipeConfig,
) -> tuple[TeacherOutputs, RefinedOutputs]:
    """Teachers and refiner on images (B, 3, H, W) in [0, 1], intrinsics (B, 4) at this size."""
    encoded, matching_prev, eighth = model.encode_pair(cur, prev)
    T_teacher = model.teacher_pose(cur, prev)
    teacher = TeacherOutputs(
        {0: model.upsample(encoded.disparity, encoded.hidden), 2: encoded.disparity, 3: eighth},
        T_teacher,
        model.teacher_pose_to_next(cur, following),
        _disparity_prev(model, prev, recipe),
    )
    inputs = model.refiner.inputs(encoded.matching, matching_prev, encoded.context, intrinsics / UPSAMPLING)
    depth_teacher = model.to_depth(encoded.disparity)
    with torch.no_grad():
        point = model.refiner.solve(encoded.hidden, depth_teacher, T_teacher, inputs, recipe.iterations)
    hidden, depth, T_prev_cur = point.hidden, point.depth, point.T_prev_cur
    failed = torch.zeros_like(point.status)
    for _ in range(recipe.differentiated_updates):
        update = model.refiner.update(hidden, depth, T_prev_cur, inputs)
        hidden, depth, T_prev_cur = update.hidden, update.depth, update.T_prev_cur
        failed = failed | update.status
    disparity = model.to_disparity(depth)
    coarse = coarse_depth(
        inputs.cur.features,
        inputs.prev.features,
        depth_teacher,
        T_prev_cur if recipe.consistency_pose is Estimates.REFINED else T_teacher,
        inputs.intrinsics,
        (model.config.min_depth, model.config.max_depth),
    )
    return teacher, RefinedOutputs(
        {0: model.upsample(disparity, hidden), 2: disparity},
        T_prev_cur,
        consistent(coarse, depth_teacher),
        update.weight,
        point.residuals[-1] if point.residuals else None,
        failed != 0,
    )
