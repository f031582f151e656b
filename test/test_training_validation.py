"""What validation measures on a recording whose depth a laser scanner knows."""

from __future__ import annotations

import sys
from pathlib import Path

import lightning.pytorch as pl
import numpy as np
import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))
from training_helpers import TINY, data, module, trainer, write_drive

from dualrefine_ros.data.source import Source
from dualrefine_ros.frame import Frame
from dualrefine_ros.model import DualRefine, ModelConfig, random_model
from dualrefine_ros.odometry import OdometryConfig, VisualOdometry
from dualrefine_ros.training.checkpoints import BestCheckpoint
from dualrefine_ros.training.datamodule import Recording, TripletData
from dualrefine_ros.training.module import ScheduleConfig
from dualrefine_ros.training.recipe import Phase
from dualrefine_ros.training.validation import ValidationConfig, validate

DRIVE = Path(__file__).parent / "data" / "kitti_raw" / "2011_09_26" / "2011_09_26_drive_9999_sync"


@pytest.fixture(scope="module")
def model() -> DualRefine:
    return random_model(ModelConfig("tf_efficientnet_lite0", "tf_efficientnet_lite0", 32, 96))


def validation_source(**options: str) -> Source:
    """The recording as a training run's configuration names it."""
    (source,) = TripletData(validate=[Recording(DRIVE, options=options)]).val_dataloader()
    return source


def abs_rel_and_a1(depth: np.ndarray, truth: np.ndarray) -> tuple[float, float]:
    """Eigen's protocol by hand: crop, cap, ratio of medians."""
    height, width = truth.shape
    ahead = np.zeros(truth.shape, bool)
    ahead[int(0.40810811 * height) : int(0.99189189 * height), int(0.03594771 * width) :] = True
    ahead[:, int(0.96405229 * width) :] = False
    counted = ahead & (np.nan_to_num(truth) > 1e-3) & (np.nan_to_num(truth) < 80)
    true, predicted = truth[counted].astype(float), depth[counted].astype(float)
    predicted = np.clip(predicted * np.median(true) / np.median(predicted), 1e-3, 80)
    within = np.maximum(true / predicted, predicted / true) < 1.25
    return float(np.mean(np.abs(predicted - true) / true)), float(within.mean())


def test_depth_is_compared_with_the_laser_scan(model: DualRefine) -> None:
    source = validation_source(depth="velodyne")
    figures = validate(model, source, ValidationConfig(iterations=1), Phase.JOINT, "cpu")
    assert set(figures) == {"abs_rel", "a1", "teacher_abs_rel", "teacher_a1"}, "there are no poses to compare"
    frame: Frame = source[0]
    assert frame.depth is not None
    estimate = VisualOdometry(model, OdometryConfig(iterations=1, device="cpu")).process(frame)
    abs_rel, a1 = abs_rel_and_a1(estimate.depth, frame.depth)
    assert figures["abs_rel"] == pytest.approx(abs_rel, rel=1e-5)
    assert figures["a1"] == pytest.approx(a1, abs=1e-3)
    assert 0.05 < abs_rel < 2, "random depth is wrong, and not beyond all measure"


def test_without_the_scan_there_is_nothing_to_measure(model: DualRefine) -> None:
    assert validate(model, validation_source(), ValidationConfig(iterations=1), Phase.TEACHER, "cpu") == {}


def drive_along_a_wall(folder: Path, moves: bool = True) -> Source:
    drive = write_drive(folder / "wall", frames=6)
    if not moves:
        (drive / "poses.txt").write_text("1 0 0 0 0 1 0 0 0 0 1 0\n" * 6)
    (source,) = TripletData(validate=[Recording(drive)]).val_dataloader()
    return source


@pytest.mark.parametrize(
    ("pose_bias", "moves"),
    [(0.0, True), (float("nan"), True), (None, False)],
    ids=["the estimate stands still", "all frames are lost", "the truth stands still"],
)
def test_a_drive_that_cannot_be_compared_has_figures_that_are_no_numbers(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, pose_bias: float | None, moves: bool
) -> None:
    network = random_model(TINY)
    if pose_bias is not None:
        torch.nn.init.zeros_(network.pose_teacher.pose2.weight)
        torch.nn.init.constant_(network.pose_teacher.pose2.bias, pose_bias)
    source = drive_along_a_wall(tmp_path, moves)
    figures = validate(network, source, ValidationConfig(iterations=1), Phase.TEACHER, "cpu")
    assert set(figures) == {"teacher_ate_percent", "teacher_rotation_deg", "teacher_scale_spread"}
    assert np.isnan(figures["teacher_ate_percent"])
    assert "wall" in caplog.text


def test_a_lost_network_is_never_the_best_and_training_goes_on(tmp_path: Path) -> None:
    """Not even of the first validation, whatever comes after."""
    drive = write_drive(tmp_path / "wall", frames=6)
    run = module(schedule=ScheduleConfig(learning_rate=1e-9, teacher_until_epoch=2, frozen_from_epoch=2))
    head = run.model.pose_teacher.pose2
    sound = head.bias.detach().clone()

    class Lost(pl.Callback):
        """The first validation is of a network whose poses are not numbers."""

        def on_validation_start(self, trainer: pl.Trainer, *_: object) -> None:
            head.bias.data.fill_(float("nan") if trainer.current_epoch == 0 else 0).add_(sound)

        def on_validation_end(self, *_: object) -> None:
            head.bias.data.copy_(sound)

    best = BestCheckpoint(tmp_path, "best", monitor="val/teacher_ate_percent", save_on_train_epoch_end=False)
    trainer(tmp_path, Lost(), best, epochs=2, limit_val_batches=1.0).fit(run, data(drive))
    assert torch.load(tmp_path / "best.ckpt", weights_only=True)["global_step"] == run.global_step
