"""One step: a batch through the network to its losses."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from dualrefine_ros.model.dualrefine import DualRefine
from dualrefine_ros.training.batch import TripletBatch, as_float
from dualrefine_ros.training.forward import RefinedOutputs, TeacherOutputs, teach, teach_and_refine
from dualrefine_ros.training.losses import Comparison, Losses, total_loss
from dualrefine_ros.training.recipe import Phase, RecipeConfig


@dataclass(frozen=True)
class StepResult:
    """Everything a step found; ``refined`` is None in the teacher's phase."""

    losses: Losses
    teacher: TeacherOutputs
    refined: RefinedOutputs | None

    @property
    def failed(self) -> bool:
        """Whether a pose could not be solved, or an estimate is not finite: the losses need not show it."""
        estimates = [*self.teacher.disparities.values(), self.teacher.T_prev_cur, self.teacher.T_next_cur]
        if self.teacher.disparity_prev is not None:
            estimates.append(self.teacher.disparity_prev)
        bad = torch.zeros((), dtype=torch.bool, device=self.losses.total.device)
        if self.refined is not None:
            estimates += [*self.refined.disparities.values(), self.refined.T_prev_cur]
            bad = self.refined.failed.any()
        return bool(bad | ~torch.stack([estimate.isfinite().all() for estimate in estimates]).all())


def training_step(
    model: DualRefine,
    batch: TripletBatch,
    recipe: RecipeConfig,
    phase: Phase,
    generator: torch.Generator | None = None,
) -> StepResult:
    """The losses of a batch.

    Networks run in autocast's precision where it is on; poses, warps and losses always in float32.
    """
    seen = as_float(batch.augmented)
    intrinsics = batch.intrinsics.float()
    refined = None
    if phase is Phase.TEACHER:
        teacher = teach(model, *seen, recipe)
    else:
        teacher, refined = teach_and_refine(model, *seen, intrinsics, recipe)
    with torch.autocast(intrinsics.device.type, enabled=False):
        compare = Comparison(as_float(batch.images), intrinsics, model.to_depth, recipe, generator)
        return StepResult(total_loss(compare, teacher, refined), teacher, refined)
