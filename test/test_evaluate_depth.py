"""``dualrefine evaluate depth`` as a user meets it, on made maps and on a real laser scan."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest

from dualrefine_ros.data.depth_files import write_depth_png
from dualrefine_ros.data.source import open_source
from dualrefine_ros.data.splits import SplitFrame
from dualrefine_ros.tools.main import main

DRIVE = Path(__file__).parent / "data" / "kitti_raw" / "2011_09_26" / "2011_09_26_drive_9999_sync"


def evaluate(*arguments: object) -> int:
    return main(["evaluate", "depth", *map(str, arguments)])


@pytest.fixture
def maps(tmp_path: Path) -> tuple[Path, Path]:
    """Truth of three images, 10 m everywhere; predictions of two, 9 m and 11 m."""
    for folder in ("predictions", "truth"):
        (tmp_path / folder).mkdir()
    for number in range(3):
        write_depth_png(tmp_path / "truth" / f"{number:010d}.png", np.full((40, 60), 10.0, np.float32))
    write_depth_png(tmp_path / "predictions" / "0000000000.png", np.full((40, 60), 9.0, np.float32))
    np.savez(tmp_path / "predictions" / "000001.npz", depth=np.full((40, 60), 11.0, np.float32))
    return tmp_path / "predictions", tmp_path / "truth"


def test_folders_of_maps(maps: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    predictions, truth = maps
    arguments = ["--scaling", "none", "--json", tmp_path / "j.json", "--out", tmp_path / "out"]
    assert evaluate(predictions, "--ground-truth", truth, *arguments) == 0
    assert "1 of 3 images were left out, the first: 2: there is no prediction" in capsys.readouterr().out
    figures = json.loads((tmp_path / "j.json").read_text())
    assert figures["abs_rel"] == pytest.approx(0.1)
    assert figures["rmse"] == pytest.approx(1.0)
    assert figures["a1"] == 1
    assert (figures["images"], figures["left_out"]) == (2, 1)
    assert json.loads((tmp_path / "out" / "depth_summary.json").read_text()) == figures
    with open(tmp_path / "out" / "depth_errors.csv", newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [row["image"] for row in rows] == ["0", "1"]
    assert [float(row["sq_rel"]) for row in rows] == pytest.approx([0.1, 0.1])
    assert {path.name for path in (tmp_path / "out" / "error_maps").iterdir()} == {"0.png", "1.png"}


def test_median_scaling_and_crop_are_the_default(maps: tuple[Path, Path], tmp_path: Path) -> None:
    predictions, truth = maps
    assert evaluate(predictions, "--ground-truth", truth, "--json", tmp_path / "j.json") == 0
    figures = json.loads((tmp_path / "j.json").read_text())
    assert figures["abs_rel"] == pytest.approx(0, abs=1e-6)
    assert figures["scale_median"] == pytest.approx((10 / 9 + 10 / 11) / 2)
    assert figures["protocol"] == {
        "min_depth": 1e-3,
        "max_depth": 80.0,
        "garg_crop": True,
        "median_scaling": True,
    }


def test_worst_images_are_drawn(maps: tuple[Path, Path], tmp_path: Path) -> None:
    predictions, truth = maps
    write_depth_png(predictions / "2.png", np.full((40, 60), 20.0, np.float32))
    arguments = ["--scaling", "none", "--out", tmp_path / "out", "--error-maps", 1]
    assert evaluate(predictions, "--ground-truth", truth, *arguments) == 0
    (picture,) = (tmp_path / "out" / "error_maps").iterdir()
    assert picture.name == "2.png"
    assert cv2.imread(str(picture)).std() > 10


def real_predictions(folder: Path, factor: float = 1.0) -> None:
    """The scan itself, multiplied, as if a network had seen it; 15 m where there is no point."""
    folder.mkdir(parents=True)
    source = open_source(DRIVE, depth="velodyne")
    for index in range(len(source)):
        depth = source[index].depth
        filled = np.where(np.isnan(depth), 15, depth * np.float32(factor)).astype(np.float32)
        np.savez(folder / f"{source.frame_id(index):010d}.npz", depth=filled)


def test_real_drive(tmp_path: Path) -> None:
    real_predictions(tmp_path / "replay" / "depth", factor=1.1)
    arguments = ["--ground-truth", DRIVE, "--json", tmp_path / "j.json"]
    assert evaluate(tmp_path / "replay", *arguments, "--truth", "velodyne", "--scaling", "none") == 0
    along_axis = json.loads((tmp_path / "j.json").read_text())
    # points of 80 m or more in the prediction are clamped, the others are 10 % off
    assert along_axis["abs_rel"] == pytest.approx(0.1, abs=2e-4)
    assert evaluate(tmp_path / "replay", *arguments, "--truth", "velodyne") == 0
    assert json.loads((tmp_path / "j.json").read_text())["scale_median"] == pytest.approx(1 / 1.1)
    # the scanner stands 0.27 m behind the camera: the literature's depth is larger by that
    assert evaluate(tmp_path / "replay", *arguments, "--scaling", "none") == 0
    ahead_of_scanner = json.loads((tmp_path / "j.json").read_text())
    assert 0.04 < ahead_of_scanner["abs_rel"] < along_axis["abs_rel"]


def test_split(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real_predictions(tmp_path / "predictions" / DRIVE.name)
    frames = [SplitFrame(f"{DRIVE.parent.name}/{DRIVE.name}", int(p.stem), 2) for p in DRIVE.rglob("*.bin")]
    monkeypatch.setattr("dualrefine_ros.data.splits.load_split", lambda name: frames)
    root = DRIVE.parents[1]
    arguments = ["--split", "eigen_test", "--truth", "velodyne", "--json", tmp_path / "j.json"]
    assert evaluate(tmp_path / "predictions", "--ground-truth", root, *arguments) == 0
    figures = json.loads((tmp_path / "j.json").read_text())
    assert figures["abs_rel"] == pytest.approx(0, abs=1e-6)
    assert figures["images"] == len(frames) >= 1


def test_damaged_prediction_is_left_out_by_name(
    maps: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    predictions, truth = maps
    (predictions / "0000000000.png").write_bytes(b"\x89PNG")
    assert evaluate(predictions, "--ground-truth", truth) == 0
    assert "2 of 3 images were left out, the first: " in capsys.readouterr().out


def test_what_cannot_be_compared(maps: tuple[Path, Path], capsys: pytest.CaptureFixture[str]) -> None:
    predictions, truth = maps
    cases = {
        "is no folder of depth maps": (predictions / "absent", truth),
        "holds no depth map": (predictions.parent, truth),
        "is a replay without depth maps": (predictions.parent / "replay", truth),
        "eigen depth for this camera": (predictions, predictions.parent / "2011_09_26_sync"),
    }
    (predictions.parent / "replay").mkdir()
    (predictions.parent / "replay" / "summary.json").write_text("{}")
    shutil.copytree(DRIVE, predictions.parent / "2011_09_26_sync")
    for name in DRIVE.parent.glob("*.txt"):
        shutil.copy(name, predictions.parent)
    shutil.rmtree(predictions.parent / "2011_09_26_sync" / "velodyne_points")
    for message, (predicted, true) in cases.items():
        assert evaluate(predicted, "--ground-truth", true) == 2
        error = capsys.readouterr().err.strip().splitlines()[-1]
        assert message in error
    for path in truth.iterdir():
        write_depth_png(path, np.full((40, 60), 99.0, np.float32))
    assert evaluate(predictions, "--ground-truth", truth) == 2
    assert "None of 3 images can be compared" in capsys.readouterr().err
    for option, value, message in (
        ("--cap", -1, "0 < min < max"),
        ("--cap", "inf", "0 < min < max"),
        ("--error-maps", -1, "--error-maps must be 0 or more"),
    ):
        assert evaluate(predictions, "--ground-truth", truth, option, value) == 2
        assert message in capsys.readouterr().err


def test_files_that_cannot_be_written(
    maps: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    predictions, truth = maps
    (tmp_path / "file").touch()
    for option, path, message in (
        ("--out", tmp_path / "file", "file is a file: name a folder"),
        ("--out", tmp_path / "file" / "deep", "cannot be made: Not a directory."),
        ("--json", tmp_path, "cannot be written: Is a directory."),
        ("--json", Path("/dev/full"), "/dev/full cannot be written: No space left on device."),
    ):
        assert evaluate(predictions, "--ground-truth", truth, option, path) == 2
        printed = capsys.readouterr()
        assert printed.err.splitlines()[-1].startswith("dualrefine evaluate: ")
        assert message in printed.err.splitlines()[-1]
        assert "abs_rel" in printed.out, "figures are shown even so"
