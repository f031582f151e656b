"""Normalised errors of drives whose errors are drawn from the covariance that is reported, or another."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from dualrefine_ros.errors import DataError
from dualrefine_ros.evaluation.calibration import ErrorRecorder
from dualrefine_ros.evaluation.replay import Step
from dualrefine_ros.frame import Estimate, Frame, Intrinsics, Status
from dualrefine_ros.geometry.se3 import se3_exp
from dualrefine_ros.memory import UncertainPose
from dualrefine_ros.model import random_model, save_checkpoint
from dualrefine_ros.tools.main import main

CLIP = Path(__file__).parent.parent / "clips" / "kitti_0001"
IMAGE = np.zeros((4, 6, 3), np.uint8)
CAMERA = Intrinsics(5.0, 5.0, 3.0, 2.0, 6, 4)
STEP = np.array([0.05, 0.0, 1.0, 0.0, 0.02, 0.0])
DEVIATIONS = np.array([0.02, 0.01, 0.05, 0.002, 0.004, 0.001])


def exp(xi: np.ndarray) -> np.ndarray:
    return se3_exp(torch.from_numpy(xi)[None])[0].numpy()


def drive(
    steps: int = 800, actual: float = 1.0, short: float = 1.0, lost: int | None = None
) -> ErrorRecorder:
    """Errors ``actual`` times as large as reported; estimated lengths ``short`` times too short."""
    rng = np.random.default_rng(0)
    recorder = ErrorRecorder()
    T_true, pose = np.eye(4), UncertainPose(covariance=1e-8 * np.eye(6))
    C = np.diag(DEVIATIONS**2)
    in_units = np.repeat((1 / short, 1.0), 3)
    for i in range(steps):
        step, known = None, None
        if i:
            true = exp(STEP)
            T_true = T_true @ true
            step = np.linalg.inv(exp(actual * DEVIATIONS * rng.normal(size=6))) @ true
            step[:3, 3] /= short
            known = C * np.outer(in_units, in_units)
            pose = pose.after(step, known)
        status = Status.FIRST if i == 0 else Status.TRACKING
        if i == lost:
            status, step, known = Status.LOST, np.diag([9.0, 9, 9, 1]), None
        frame = Frame(i, IMAGE, CAMERA, T_world_cam=T_true)
        estimate = Estimate(
            i, status, np.ones((4, 6), np.float32), pose.T_world_cam, step, covariance=known,
            prev_stamp_ns=None if i in (0, lost) else i - 1, pose_covariance=pose.covariance,
        )  # fmt: skip
        recorder(Step(i, frame, estimate, 0.0))
    return recorder


def test_honest_covariances() -> None:
    figures = drive().steps().figures()
    assert figures["count"] == 799
    assert figures["mean"] == pytest.approx(1, abs=0.1)
    assert figures["median"] == pytest.approx(1, abs=0.1)
    assert figures["within_95"] == pytest.approx(0.95, abs=0.03)
    for axis in ("x", "y", "z", "roll", "pitch", "yaw"):
        assert figures[axis] == pytest.approx(1, abs=0.1)


def test_too_sure_and_too_modest() -> None:
    sure, modest = drive(actual=3.0).steps().figures(), drive(actual=0.5).steps().figures()
    assert sure["mean"] == pytest.approx(9, rel=0.1)
    assert sure["within_95"] < 0.3
    assert sure["yaw"] == pytest.approx(3, rel=0.1)
    assert modest["mean"] == pytest.approx(0.25, rel=0.1)
    assert modest["within_95"] > 0.99


def test_poses_of_many_drives() -> None:
    """The last pose of each: errors have added up as the chain says."""
    squares = []
    for seed in range(60):
        rng = np.random.default_rng(seed)
        recorder, T_true, pose = ErrorRecorder(), np.eye(4), UncertainPose(covariance=1e-8 * np.eye(6))
        for i in range(15):
            if i:
                T_true = T_true @ exp(STEP)
                pose = pose.after(
                    np.linalg.inv(exp(DEVIATIONS * rng.normal(size=6))) @ exp(STEP), np.diag(DEVIATIONS**2)
                )
            frame = Frame(i, IMAGE, CAMERA, T_world_cam=T_true)
            recorder(Step(i, frame, Estimate(
                i, Status.TRACKING, np.ones((4, 6), np.float32), pose.T_world_cam,
                pose_covariance=pose.covariance), 0.0))  # fmt: skip
        squares.append(recorder.poses().normalised_squares[-1])
    assert np.mean(squares) == pytest.approx(6, abs=4 * np.sqrt(12 / 60))


def test_the_scale_is_fitted_and_goes_into_the_covariance() -> None:
    recorder = drive(short=20.0)
    assert recorder.scale() == pytest.approx(20, rel=0.01)
    assert recorder.steps(20.0).figures()["mean"] == pytest.approx(1, abs=0.1)
    assert recorder.steps().figures()["z"] > 50  # unscaled, the covariance is of no help


def test_lost_frames_have_no_step() -> None:
    assert drive(lost=400).steps().figures()["count"] == 798


def test_no_ground_truth() -> None:
    recorder = ErrorRecorder()
    estimate = Estimate(0, Status.FIRST, np.ones((4, 6), np.float32), np.eye(4))
    recorder(Step(0, Frame(0, IMAGE, CAMERA), estimate, 0.0))
    with pytest.raises(DataError, match="no ground truth"):
        recorder.scale()


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    weights = tmp_path / "weights.safetensors"
    save_checkpoint(random_model("small"), weights)
    out = tmp_path / "figures.json"
    arguments = ["evaluate", "covariance", str(CLIP), "--checkpoint", str(weights), "--iterations", "0"]
    assert main([*arguments, "--limit", "4", "--json", str(out)]) == 0
    printed = capsys.readouterr().out
    assert "kitti_0001 steps" in printed
    assert "kitti_0001 poses" in printed
    assert '"within_95"' in out.read_text()
    for refused, message in (
        (["--limit", "1"], "--limit must leave two frames"),
        (["--limit", "-3"], "--limit must leave two frames"),
        ([str(CLIP)], "given twice"),
    ):
        assert main([*arguments[:3], *refused, *arguments[3:]]) == 2
        assert message in capsys.readouterr().err
