"""The weights that ship: found, small enough, of the network they should be, and better than none."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from dualrefine_ros import installed_files
from dualrefine_ros.data.source import open_source
from dualrefine_ros.errors import CheckpointError
from dualrefine_ros.evaluation.alignment import Alignment
from dualrefine_ros.evaluation.odometry_metrics import evaluate_odometry
from dualrefine_ros.evaluation.replay import replay
from dualrefine_ros.model import load_checkpoint, read_info
from dualrefine_ros.model.default_weights import default_checkpoint
from dualrefine_ros.odometry import OdometryConfig, VisualOdometry

ROOT = Path(__file__).parents[1]
CLIP = ROOT / "clips" / "kitti_0001"
LARGEST = 40 * 2**20  # bytes


def test_they_lie_in_the_checkout_or_in_the_installed_share(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    assert default_checkpoint() == ROOT / "models" / "dualrefine_small.safetensors"
    monkeypatch.setattr(installed_files, "__file__", str(tmp_path / "lib" / "installed_files.py"))
    monkeypatch.setenv("AMENT_PREFIX_PATH", f"/nowhere:{tmp_path}")
    with pytest.raises(CheckpointError, match="are not installed: name a checkpoint"):
        default_checkpoint()
    share = tmp_path / "share" / "dualrefine_ros" / "models"
    share.mkdir(parents=True)
    (share / "dualrefine_small.safetensors").touch()
    assert default_checkpoint() == share / "dualrefine_small.safetensors"


def test_their_file_says_what_they_are() -> None:
    path = default_checkpoint()
    info = read_info(path)
    assert path.stat().st_size < LARGEST
    assert info.licence == "CC-BY-NC-SA-3.0"
    assert info.config.depth_backbone == info.config.pose_backbone == "tf_efficientnet_lite0"
    assert info.training["steps"] > 0


def test_they_find_their_way_along_the_bundled_clip() -> None:
    """Forty frames, half of the usual iterations."""
    source = open_source(CLIP)
    odometry = VisualOdometry(load_checkpoint(default_checkpoint()), OdometryConfig(iterations=3))
    trajectory = replay(source, odometry, indices=range(40))
    assert source.ground_truth is not None
    result = evaluate_odometry(trajectory, source.ground_truth, Alignment.SIMILARITY)
    assert result.ate_percent is not None
    assert result.ate_percent < 1.0
    assert result.rpe_deg < 0.1
    assert result.scale_spread is not None
    assert result.scale_spread < 0.1
    assert np.isfinite(odometry.process(source[40]).depth).all()
