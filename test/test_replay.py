"""Replay: every frame, in order, the same each time, and nothing lost whatever happens."""

from __future__ import annotations

import csv
import json
import os
import signal
import sys
import threading
from pathlib import Path
from types import ModuleType

import cv2
import numpy as np
import pytest
import torch
import yaml

from dualrefine_ros.data.depth_files import read_depth
from dualrefine_ros.data.source import open_source
from dualrefine_ros.errors import ConfigError, DataError, DeviceError, InputError
from dualrefine_ros.evaluation.replay import Step, replay
from dualrefine_ros.evaluation.results import ResultsFolder
from dualrefine_ros.frame import Estimate, Frame, Intrinsics, Status
from dualrefine_ros.geometry.trajectory import read_trajectory
from dualrefine_ros.model import ModelConfig, random_model, save_checkpoint
from dualrefine_ros.observation import STAGES
from dualrefine_ros.odometry import VisualOdometry
from dualrefine_ros.tools.main import main
from dualrefine_ros.tools.replay import select, stop_on_interrupt

WIDTH, HEIGHT = 64, 32
CAMERA = Intrinsics(50, 50, 31.5, 15.5, WIDTH, HEIGHT)


class DeadReckoning:
    """An engine that reads the pose off the image: its first pixel says how many decimetres it went."""

    def __init__(self) -> None:
        self.position = 123.0

    def reset(self) -> None:
        self.position = 0.0

    def process(self, frame: Frame) -> Estimate:
        if frame.image[0, 0, 2] == 255:
            raise InputError("The image is black.")
        self.position += frame.image[0, 0, 0] / 10
        T = np.eye(4)
        T[2, 3] = self.position
        depth = np.full(frame.image.shape[:2], 7.5, np.float32)
        norms = np.array([0.1, np.nan], np.float32)
        return Estimate(frame.stamp_ns, Status.TRACKING, depth, T, np.eye(4), None, norms, {"think": 0.001})


def frame(index: int, decimetres: int = 10, refused: bool = False) -> Frame:
    image = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    image[0, 0] = decimetres, 0, 255 if refused else 0
    return Frame(100_000_000 * index, image, CAMERA)


@pytest.fixture
def kitti_folder(tmp_path: Path) -> Path:
    """Eight textured images numbered 0 to 8, 4 missing and 6 corrupt; the truth goes 1 m ahead a frame."""
    folder = tmp_path / "clip"
    (folder / "image_2").mkdir(parents=True)
    rng = np.random.default_rng(0)
    texture = cv2.GaussianBlur(rng.integers(0, 255, (HEIGHT, 4 * WIDTH, 3)).astype(np.uint8), (0, 0), 2)
    for number in (0, 1, 2, 3, 5, 6, 7, 8):
        image = texture[:, 2 * number : 2 * number + WIDTH]
        cv2.imwrite(str(folder / "image_2" / f"{number:06d}.png"), image)
    (folder / "image_2" / "000006.png").write_bytes(b"\x89PNG broken")
    P = "50 0 31.5 0 0 50 15.5 0 0 0 1 0"
    (folder / "calib.txt").write_text("".join(f"P{i}: {P}\n" for i in range(4)))
    (folder / "times.txt").write_text("".join(f"{0.1 * i:.6f}\n" for i in range(9)))
    (folder / "poses.txt").write_text("".join(f"1 0 0 0 0 1 0 0 0 0 1 {i}\n" for i in range(9)))
    return folder


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


def replay_command(source: Path, out: Path, *arguments: str) -> int:
    """The command with the smaller network."""
    return main(["replay", str(source), "--out", str(out), "--network", "small", *arguments])


def rows(folder: Path) -> list[dict[str, str]]:
    with open(folder / "frames.csv", newline="", encoding="ascii") as file:
        return list(csv.DictReader(file))


def test_every_frame_in_order_from_a_fresh_engine() -> None:
    engine, seen = DeadReckoning(), []
    frames = [frame(i, decimetres=i) for i in range(30)]
    trajectory = replay(frames, engine, observers=[seen.append])
    np.testing.assert_allclose(trajectory.positions[:, 2], np.cumsum(np.arange(30)) / 10)
    np.testing.assert_array_equal(trajectory.stamps_ns, 100_000_000 * np.arange(30))
    np.testing.assert_array_equal(trajectory.frames, np.arange(30))
    assert [step.frame for step in seen] == frames
    again = replay(frames, engine)
    np.testing.assert_array_equal(again.poses, trajectory.poses)


def test_a_refused_frame_is_left_out_and_reported(caplog: pytest.LogCaptureFixture) -> None:
    frames = [frame(0), frame(1, refused=True), frame(2)]
    trajectory = replay(frames, DeadReckoning())
    np.testing.assert_array_equal(trajectory.frames, [0, 2])
    assert "Frame 1 skipped: The image is black." in caplog.text


def test_nothing_to_replay() -> None:
    with pytest.raises(DataError, match="no frame"):
        replay([], DeadReckoning())


def test_stop_begins_no_further_frame() -> None:
    stop, seen = threading.Event(), []

    def stop_after_three(step: Step) -> None:
        seen.append(step.number)
        if len(seen) == 3:
            stop.set()

    assert len(replay(map(frame, range(100)), DeadReckoning(), observers=[stop_after_three], stop=stop)) == 3


def test_frame_numbers_survive_gaps_and_corrupt_images(kitti_folder: Path) -> None:
    source = open_source(kitti_folder)
    trajectory = replay(source, DeadReckoning())
    np.testing.assert_array_equal(trajectory.frames, [0, 1, 2, 3, 5, 7, 8])
    np.testing.assert_allclose(trajectory.stamps, [0, 0.1, 0.2, 0.3, 0.5, 0.7, 0.8])
    assert source.skipped == 1


def test_selection(kitti_folder: Path) -> None:
    source = open_source(kitti_folder)  # frames 0 1 2 3 5 6 7 8
    assert select(source, None, None, 1) == list(range(8))
    assert select(source, 3, 7, 1) == [3, 4, 5, 6]
    assert select(source, 4, None, 2) == [4, 6]
    with pytest.raises(ConfigError, match="frames 0 to 8, none of them"):
        select(source, 20, None, 1)
    with pytest.raises(ConfigError, match="--start 5 lies behind --end 2"):
        select(source, 5, 2, 1)
    with pytest.raises(ConfigError, match="frames 0 to 8, none of them in --end -1"):
        select(source, None, -1, 1)
    with pytest.raises(ConfigError, match="--every"):
        select(source, None, None, 0)


def test_command_line_leaves_a_folder_of_results(kitti_folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    arguments = ["--iterations", "2", "--device", "cpu"]
    assert replay_command(kitti_folder, out, *arguments, "--depth", "png", "npz") == 0
    summary = json.loads((out / "summary.json").read_text())
    assert (summary["weights"], summary["network"]) == ("RANDOM WEIGHTS", "small")
    assert summary["complete"] is True
    assert (summary["frames"], summary["frames_unreadable"]) == (7, 1)
    assert summary["frames_by_status"] == {"first": 1, "tracking": 6}
    assert summary["odometry"]["none"]["frames"] == 7
    assert summary["odometry"]["none"]["t_err"] is None

    tum, kitti = read_trajectory(out / "trajectory_tum.txt"), read_trajectory(out / "trajectory_kitti.txt")
    np.testing.assert_array_equal(kitti.frames, [0, 1, 2, 3, 5, 7, 8])
    np.testing.assert_allclose(tum.poses, kitti.poses, atol=1e-7)
    assert [row["frame"] for row in rows(out)] == ["0", "1", "2", "3", "5", "7", "8"]
    assert [row["status"] for row in rows(out)] == ["first"] + ["tracking"] * 6
    np.testing.assert_allclose([float(row["tz"]) for row in rows(out)], tum.positions[:, 2], atol=1e-8)
    assert rows(out)[0]["update_norm_1"] == ""
    assert all(float(row["update_norm_2"]) >= 0 for row in rows(out)[1:])
    for row in rows(out):
        stages = [
            float(value or 0) for name, value in row.items() if name.endswith("_ms") and name != "total_ms"
        ]
        assert len(stages) == len(STAGES)
        assert min(stages) > 0
        assert sum(stages) <= float(row["total_ms"]) + 0.01

    depth = read_depth(out / "depth" / "0000000005.npz")
    assert depth.shape == (HEIGHT, WIDTH)
    np.testing.assert_allclose(read_depth(out / "depth" / "0000000005.png"), depth, atol=0.5 / 256)
    assert yaml.safe_load((out / "config.yaml").read_text())["odometry"]["iterations"] == 2
    for picture in ("trajectory.png", "error_over_length.png", "scale_drift.png", "engine.png"):
        assert cv2.imread(str(out / picture)) is not None
    np.testing.assert_allclose(
        read_trajectory(out / "ground_truth_tum.txt").positions[:, 2], [0, 1, 2, 3, 5, 6, 7, 8]
    )

    again = tmp_path / "again"
    assert replay_command(kitti_folder, again, *arguments) == 0
    assert (again / "trajectory_tum.txt").read_bytes() == (out / "trajectory_tum.txt").read_bytes()


def test_interrupt_leaves_complete_results(
    kitti_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    process, calls = VisualOdometry.process, []

    def interrupted(self: VisualOdometry, frame: Frame) -> Estimate:
        calls.append(frame)
        if len(calls) == 3:
            os.kill(os.getpid(), signal.SIGINT)
        return process(self, frame)

    monkeypatch.setattr(VisualOdometry, "process", interrupted)
    before = signal.getsignal(signal.SIGINT)
    out = tmp_path / "out"
    assert replay_command(kitti_folder, out, "--iterations", "1", "--depth", "png") == 130
    assert signal.getsignal(signal.SIGINT) is before
    summary = json.loads((out / "summary.json").read_text())
    assert (summary["complete"], summary["frames"]) == (False, 3)
    assert len(rows(out)) == len(read_trajectory(out / "trajectory_tum.txt")) == 3
    assert len(list((out / "depth").iterdir())) == 3
    assert (out / "trajectory.png").is_file()


def test_a_camera_that_stands_in_truth_has_pictures_too(kitti_folder: Path, tmp_path: Path) -> None:
    (kitti_folder / "poses.txt").write_text("1 0 0 0 0 1 0 0 0 0 1 0\n" * 9)
    assert replay_command(kitti_folder, tmp_path / "out", "--iterations", "0") == 0
    assert (tmp_path / "out" / "trajectory.png").is_file()
    assert (tmp_path / "out" / "engine.png").is_file()


@pytest.mark.parametrize("second", [signal.SIGTERM, signal.SIGINT])
def test_a_second_signal_close_upon_the_first_stops_at_once(second: signal.Signals) -> None:
    """As `timeout` sends them: to the process, then to its group."""
    before = signal.getsignal(signal.SIGTERM)
    with stop_on_interrupt() as stop:
        signal.raise_signal(signal.SIGTERM)
        assert stop.is_set()
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(second)
    assert signal.getsignal(signal.SIGTERM) is before


def test_weights_that_do_not_refine_the_pose_leave_whole_results(kitti_folder: Path, tmp_path: Path) -> None:
    config = ModelConfig("tf_efficientnet_lite0", "tf_efficientnet_lite0", 32, 96, pose_updates=False)
    save_checkpoint(random_model(config), tmp_path / "fixed_pose.safetensors")
    arguments = ["--checkpoint", str(tmp_path / "fixed_pose.safetensors"), "--iterations", "2"]
    assert replay_command(kitti_folder, tmp_path / "out", *arguments) == 0
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert (summary["weights"], summary["network"]) == (
        "weights fixed_pose",
        "tf_efficientnet_lite0 96x32",
    )
    assert cv2.imread(str(tmp_path / "out" / "engine.png")) is not None


def test_results_do_not_wait_for_pictures(
    kitti_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_picture(*_: object) -> None:
        raise RuntimeError("no font")

    monkeypatch.setattr("dualrefine_ros.evaluation.results.plot_replay", no_picture)
    with pytest.raises(RuntimeError, match="no font"):
        replay_command(kitti_folder, tmp_path / "out", "--iterations", "0")
    assert json.loads((tmp_path / "out" / "summary.json").read_text())["complete"] is True
    assert len(read_trajectory(tmp_path / "out" / "trajectory_tum.txt")) == 7


def test_skipped_frames_are_no_gap(kitti_folder: Path, tmp_path: Path) -> None:
    """Frames half a second apart, every third: more than the second after which a live camera starts anew."""
    (kitti_folder / "times.txt").write_text("".join(f"{0.5 * i}\n" for i in range(9)))
    arguments = ["--every", "3", "--end", "3", "--iterations", "1"]
    assert replay_command(kitti_folder, tmp_path / "out", *arguments) == 0
    assert [row["frame"] for row in rows(tmp_path / "out")] == ["0", "3"]
    assert [row["status"] == "first" for row in rows(tmp_path / "out")] == [True, False]


@pytest.mark.parametrize("error", [RuntimeError("a fault"), DeviceError("The network failed.")])
def test_a_crash_of_the_engine_keeps_what_was_done(
    kitti_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    process, calls = VisualOdometry.process, []

    def failing(self: VisualOdometry, frame: Frame) -> Estimate:
        calls.append(frame)
        if len(calls) == 3:
            raise error
        return process(self, frame)

    monkeypatch.setattr(VisualOdometry, "process", failing)
    arguments = (kitti_folder, tmp_path / "out", "--iterations", "1")
    if isinstance(error, DeviceError):
        assert replay_command(*arguments) == 2
    else:
        with pytest.raises(RuntimeError, match="a fault"):
            replay_command(*arguments)
    assert len(calls) == 3
    assert json.loads((tmp_path / "out" / "summary.json").read_text())["complete"] is False
    assert len(read_trajectory(tmp_path / "out" / "trajectory_tum.txt")) == 2


def test_an_earlier_replay_is_replaced_and_nothing_else(tmp_path: Path) -> None:
    out = tmp_path / "out"
    ResultsFolder(out, {}, 2, ["png"])(Step(41, frame(41), DeadReckoning().process(frame(0)), 0.1))
    (out / "notes.txt").write_text("mine")
    (out / "summary.json").write_text("{}")
    source_frames = [Step(i, frame(i), DeadReckoning().process(frame(i)), 0.1) for i in range(2)]
    results = ResultsFolder(out, {"a": 1}, 2, ["png"])
    assert not (out / "summary.json").exists()
    for step in source_frames:
        results(step)
    assert [row["frame"] for row in rows(out)] == ["0", "1"]
    assert rows(out)[0]["update_norm_2"] == ""  # the iteration did not run
    assert (out / "notes.txt").read_text() == "mine"


def test_folders_that_hold_something_else_are_left_alone(
    kitti_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert replay_command(kitti_folder, kitti_folder) == 2
    assert "is not empty and holds no replay" in capsys.readouterr().err
    assert replay_command(kitti_folder, kitti_folder / "calib.txt") == 2
    assert "is a file" in capsys.readouterr().err
    assert (kitti_folder / "times.txt").is_file()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--start", "90"], "has frames 0 to 8, none of them in --start 90."),
        (["--checkpoint", "absent.safetensors"], "absent.safetensors"),
        (["--device", "abacus"], "abacus"),
        (["--iterations", "-1"], "iterations"),
        (["--topic", "/image"], "topic"),
    ],
)
def test_bad_options_are_one_sentence(
    kitti_folder: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    message: str,
) -> None:
    assert replay_command(kitti_folder, tmp_path / "out", *arguments) == 2
    assert message in capsys.readouterr().err.splitlines()[-1]
    assert not (tmp_path / "out").exists()


def test_rerun_is_an_extra(
    kitti_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "rerun", None)
    assert replay_command(kitti_folder, tmp_path / "out", "--rrd", str(tmp_path / "a.rrd")) == 2
    assert "Rerun is not installed" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_rerun_without_a_display_says_so(
    kitti_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "rerun", ModuleType("rerun"))
    monkeypatch.setattr(sys, "platform", "linux")
    for name in ("DISPLAY", "WAYLAND_DISPLAY"):
        monkeypatch.delenv(name, raising=False)
    assert replay_command(kitti_folder, tmp_path / "out", "--view") == 2
    assert "There is no display" in capsys.readouterr().err


def test_rerun_recording(kitti_folder: Path, tmp_path: Path) -> None:
    pytest.importorskip("rerun")
    arguments = ["--iterations", "1", "--rrd", str(tmp_path / "deep" / "a.rrd")]
    assert replay_command(kitti_folder, tmp_path / "out", *arguments) == 0
    content = (tmp_path / "deep" / "a.rrd").read_bytes()
    assert content.startswith(b"RRF")
    assert len(content) > 10_000
