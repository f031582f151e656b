"""Steps without a usable gradient change nothing, are counted, and stop the run when there are many."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).parent))
from training_helpers import INTRINSICS, TINY, batch_of, data, module, trainer, write_drive

from dualrefine_ros.model import random_model
from dualrefine_ros.training.module import DualRefineTraining, ScheduleConfig, TrainingFailed
from dualrefine_ros.training.photometric import warp
from dualrefine_ros.training.recipe import Phase, RecipeConfig
from dualrefine_ros.training.step import training_step

STEPS_AN_EPOCH = 3
SCHEDULES = {  # of a single epoch
    Phase.TEACHER: ScheduleConfig(teacher_until_epoch=1, frozen_from_epoch=1),
    Phase.JOINT: ScheduleConfig(teacher_until_epoch=0, frozen_from_epoch=1),
    Phase.FROZEN: ScheduleConfig(teacher_until_epoch=0, frozen_from_epoch=0),
}


@pytest.fixture(scope="module")
def drive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_drive(tmp_path_factory.mktemp("drive") / "wall", frames=2 * STEPS_AN_EPOCH + 2)


class Spoiler(pl.Callback):
    """Makes the loss of some steps NaN, as an overflow would."""

    def __init__(self, model: DualRefineTraining, steps: set[int]) -> None:
        self._model, self._steps = model, steps
        self.before: dict[str, Tensor] = {}
        self.unchanged: list[bool] = []

    def on_before_backward(self, trainer: pl.Trainer, pl_module: Any, loss: Tensor) -> None:
        if trainer.global_step in self._steps:
            self.before = {k: p.detach().clone() for k, p in self._model.model.named_parameters()}
            loss.data.fill_(float("nan"))
            loss.register_hook(lambda gradient: gradient * float("nan"))

    def on_train_batch_end(self, *_: Any) -> None:
        if self.before:
            after = dict(self._model.model.named_parameters())
            self.unchanged.append(all(torch.equal(after[k], v) for k, v in self.before.items()))
            self.before = {}


def test_a_step_without_a_usable_gradient_changes_nothing_and_is_counted(drive: Path, tmp_path: Path) -> None:
    run = module(schedule=ScheduleConfig(teacher_until_epoch=1, frozen_from_epoch=1))
    spoiler = Spoiler(run, {1})
    trainer(tmp_path, spoiler, epochs=1, enable_checkpointing=False).fit(run, data(drive))
    assert spoiler.unchanged == [True]
    assert run.failed_in_all == 1
    assert run.failed_in_a_row == 0
    assert run.global_step == STEPS_AN_EPOCH
    assert all(torch.isfinite(p).all() for p in run.model.parameters())


def test_too_many_failed_steps_in_a_row_stop_the_run(drive: Path, tmp_path: Path) -> None:
    run = module(schedule=ScheduleConfig(teacher_until_epoch=1, frozen_from_epoch=1, max_failed_in_a_row=2))
    spoiler = Spoiler(run, {0, 1, 2})
    with pytest.raises(TrainingFailed, match="2 steps in a row"):
        trainer(tmp_path, spoiler, epochs=1, enable_checkpointing=False).fit(run, data(drive))


def test_an_unsolvable_pose_fails_the_step(drive: Path, tmp_path: Path) -> None:
    """Without confidence there is no pose system to solve: every step fails, none changes a weight."""
    run = module(schedule=ScheduleConfig(teacher_until_epoch=0))
    with torch.no_grad():
        run.model.refiner.update_block.evolving_confidence[2].bias.fill_(-1e4)
    before = {k: p.detach().clone() for k, p in run.model.named_parameters()}
    trainer(tmp_path, epochs=1, enable_checkpointing=False, limit_train_batches=2).fit(run, data(drive))
    assert run.failed_in_all == 2
    assert all(torch.equal(p, before[k]) for k, p in run.model.named_parameters())


class Overflow(pl.Callback):
    """Makes what a layer says in a training step not a number, as an overflow in half precision would."""

    def __init__(self, layer: nn.Module, step: int) -> None:
        self._step, self._now = step, False
        layer.register_forward_hook(self._overflow)

    def on_train_batch_start(self, trainer: pl.Trainer, *_: Any) -> None:
        self._now = trainer.global_step == self._step

    def _overflow(self, layer: nn.Module, inputs: Any, output: Tensor) -> Tensor:
        return output * float("nan") if self._now else output


class StateBefore(pl.Callback):
    """Keeps the network as it was before a step, and whether it was the same after it."""

    def __init__(self, step: int) -> None:
        self._step = step
        self.changed: list[str] | None = None

    def on_train_batch_start(self, trainer: pl.Trainer, pl_module: Any, *_: Any) -> None:
        if trainer.global_step == self._step:
            self._before = {k: v.clone() for k, v in pl_module.model.state_dict().items()}

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: Any, *_: Any) -> None:
        if trainer.global_step == self._step + 1:
            after = pl_module.model.state_dict()
            self.changed = [k for k, v in self._before.items() if not torch.equal(after[k], v)]


# an estimate, and what batch norms follow
NAN_LAYERS = ("depth_decoder.disparity.2", "pose_teacher.pose2", "depth_backbone.net.conv_stem")


@pytest.mark.parametrize(
    ("phase", "layer"),
    [
        *((phase, layer) for phase in Phase for layer in NAN_LAYERS),
        (Phase.JOINT, "refiner.update_block.depth_head.conv2"),
        (Phase.FROZEN, "refiner.update_block.depth_head.conv2"),
    ],
)
def test_a_nan_of_the_forward_pass_is_a_failed_step(
    drive: Path, tmp_path: Path, phase: Phase, layer: str
) -> None:
    run = module(schedule=SCHEDULES[phase])
    state = StateBefore(1)
    overflow = Overflow(run.model.get_submodule(layer), 1)
    trainer(tmp_path, state, overflow, epochs=1, enable_checkpointing=False).fit(run, data(drive))
    assert (run.failed_in_all, run.global_step) == (1, STEPS_AN_EPOCH)
    assert state.changed == []
    assert all(torch.isfinite(value).all() for value in run.model.state_dict().values())


def test_a_failed_step_of_several_batches_leaves_the_statistics_of_before_all_of_them(
    drive: Path, tmp_path: Path
) -> None:
    run = module(schedule=SCHEDULES[Phase.JOINT])
    before = {k: v.clone() for k, v in run.model.state_dict().items()}
    overflow = Overflow(run.model.get_submodule("depth_backbone.net.conv_stem"), 0)
    options = {"accumulate_grad_batches": 3, "enable_checkpointing": False}
    trainer(tmp_path, overflow, epochs=1, **options).fit(run, data(drive))
    assert (run.failed_in_all, run.global_step) == (1, 1)
    assert all(torch.equal(value, before[key]) for key, value in run.model.state_dict().items())


def test_a_step_whose_estimates_are_not_finite_says_so() -> None:
    """A loss may look well all the same: the warp takes whatever it is given."""
    result = training_step(random_model(TINY), batch_of(1), RecipeConfig(), Phase.JOINT)
    assert not result.failed
    assert result.refined is not None
    wrong = torch.full((1, 4, 4), float("nan"))
    assert replace(result, teacher=replace(result.teacher, T_next_cur=wrong)).failed
    assert replace(result, refined=replace(result.refined, T_prev_cur=wrong)).failed
    assert replace(result, refined=replace(result.refined, failed=torch.tensor([True]))).failed
    disparities = result.teacher.disparities | {2: result.teacher.disparities[2] * float("inf")}
    assert replace(result, teacher=replace(result.teacher, disparities=disparities)).failed


@pytest.mark.parametrize("wrong", [float("nan"), float("inf")])
def test_a_warp_by_a_wrong_depth_can_be_differentiated(wrong: float) -> None:
    depth = torch.full((1, 1, 8, 12), wrong, requires_grad=True)
    warped = warp(torch.rand(1, 3, 8, 12), depth, torch.eye(4)[None], torch.tensor([INTRINSICS]))
    warped.sum().backward()
    assert torch.isfinite(warped).all()
