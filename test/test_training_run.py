"""Runs of a few steps: they go on exactly where they were interrupted, and survive steps that fail."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint

sys.path.insert(0, str(Path(__file__).parent))
from training_helpers import TINY, write_drive  # noqa: E402

from dualrefine_ros.model import load_checkpoint, read_info  # noqa: E402
from dualrefine_ros.tools.main import main  # noqa: E402
from dualrefine_ros.training.datamodule import Recording, TripletData  # noqa: E402
from dualrefine_ros.training.initialisation import InitialWeights  # noqa: E402
from dualrefine_ros.training.module import (  # noqa: E402
    DualRefineTraining,
    ScheduleConfig,
    TrainingFailed,
)
from dualrefine_ros.training.recipe import Phase  # noqa: E402

STEPS_AN_EPOCH = 3
SCHEDULE = ScheduleConfig(learning_rate=1e-3, teacher_until_epoch=1, frozen_from_epoch=2, warmup_steps=2)


class LossRecorder(pl.Callback):
    """Keeps the loss of every step, and stops the run as if it were killed."""

    def __init__(self, stop_after: int | None = None) -> None:
        self.losses: dict[int, float] = {}
        self.phases: list[Phase] = []
        self._stop_after = stop_after

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: Any, outputs: Any, *_: Any) -> None:
        self.losses[trainer.global_step] = outputs["loss"].item()
        self.phases.append(pl_module.phase)

    def on_train_batch_start(self, trainer: pl.Trainer, *_: Any) -> None:
        if trainer.global_step == self._stop_after:
            raise KeyboardInterrupt


@pytest.fixture(scope="module")
def drive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_drive(tmp_path_factory.mktemp("drive") / "wall", frames=2 * STEPS_AN_EPOCH + 2)


def data(drive: Path, **options: Any) -> TripletData:
    return TripletData(
        train=[Recording(drive)],
        validate=[Recording(drive)],
        height=TINY.height,
        width=TINY.width,
        batch_size=2,
        cache=drive.parent / "cache",
        **{"workers": 0, **options},
    )


def module(**options: Any) -> DualRefineTraining:
    return DualRefineTraining(
        TINY, initial=InitialWeights(imagenet=False), **{"schedule": SCHEDULE, **options}
    )


def trainer(folder: Path, *callbacks: pl.Callback, epochs: int = 3, **options: Any) -> pl.Trainer:
    return pl.Trainer(
        accelerator="cpu",
        max_epochs=epochs,
        default_root_dir=folder,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        gradient_clip_val=0.1,
        use_distributed_sampler=False,
        reload_dataloaders_every_n_epochs=1,
        callbacks=list(callbacks),
        **{"limit_val_batches": 0, **options},
    )


def latest(folder: Path) -> ModelCheckpoint:
    return ModelCheckpoint(folder, "latest", every_n_train_steps=1, enable_version_counter=False)


@pytest.fixture(scope="module")
def whole_run(drive: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[LossRecorder, dict[str, Any]]:
    recorder = LossRecorder()
    run = module()
    trainer(tmp_path_factory.mktemp("whole"), recorder, enable_checkpointing=False).fit(run, data(drive))
    return recorder, run.model.state_dict()


def test_a_run_goes_through_its_phases(whole_run) -> None:
    expected = [Phase.TEACHER, Phase.JOINT, Phase.FROZEN]
    assert whole_run[0].phases == [phase for phase in expected for _ in range(STEPS_AN_EPOCH)]


@pytest.mark.parametrize(
    "stop_after", [2, 3, 5, 7], ids=["in an epoch", "after an epoch", "in another phase", "when frozen"]
)
def test_an_interrupted_run_goes_on_exactly(drive: Path, whole_run, tmp_path: Path, stop_after: int) -> None:
    first, second = LossRecorder(stop_after), LossRecorder()
    with pytest.raises((KeyboardInterrupt, SystemExit)):
        trainer(tmp_path, latest(tmp_path), first).fit(module(), data(drive))
    torch.manual_seed(1234)  # whatever happened to the process's generator in between
    resumed = module(seed=99)  # its own first weights are not used
    resumed.seed = 0
    trainer(tmp_path, latest(tmp_path), second).fit(
        resumed, data(drive), ckpt_path=tmp_path / "latest.ckpt", weights_only=True
    )
    expected, weights = whole_run
    assert sorted(first.losses | second.losses) == sorted(expected.losses)
    assert min(second.losses) == stop_after + 1
    for step, loss in second.losses.items():
        assert loss == pytest.approx(expected.losses[step], rel=1e-6)
    for key, value in resumed.model.state_dict().items():
        torch.testing.assert_close(value, weights[key], rtol=1e-6, atol=1e-7)
