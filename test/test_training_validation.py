"""What validation measures on a recording whose depth a laser scanner knows."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from dualrefine_ros.data.source import Source
from dualrefine_ros.frame import Frame
from dualrefine_ros.model import DualRefine, ModelConfig, random_model
from dualrefine_ros.odometry import OdometryConfig, VisualOdometry
from dualrefine_ros.training.datamodule import Recording, TripletData
from dualrefine_ros.training.recipe import Phase
from dualrefine_ros.training.validation import ValidationConfig, validate

DRIVE = Path(__file__).parent / "data" / "kitti_raw" / "2011_09_26" / "2011_09_26_drive_9999_sync"


@pytest.fixture(scope="module")
def model() -> DualRefine:
    torch.set_num_threads(1)
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
