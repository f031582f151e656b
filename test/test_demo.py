"""The demo as a user starts it: clip, DDS, node, files; and when it goes wrong half-way."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import matplotlib.image
import numpy as np
import pytest
from rclpy.node import Node
from sensor_msgs.msg import Image

from dualrefine_ros.frame import Frame, Intrinsics
from dualrefine_ros.geometry.trajectory import Trajectory, read_times, read_trajectory
from dualrefine_ros.tools.demo import Interruption
from dualrefine_ros.tools.demo_player import Recording
from dualrefine_ros.tools.demo_report import draw_depth_sheet, move_to_base, round_numbers, write_results
from dualrefine_ros.tools.main import main

CLIP = Path(__file__).parents[1] / "clips" / "kitti_0001"
PATIENCE = 120.0


def start_demo(out: Path, *arguments: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "dualrefine_ros.tools.main", "demo", "--out", str(out)]
    fast = ["--network", "small", "--iterations", "1", "--device", "cpu"]
    return subprocess.Popen(
        [*command, *fast, *arguments], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def wait_until_playing(demo: subprocess.Popen[str]) -> int:
    """The process id of the node, once some frames have been answered."""
    said = ""
    while not re.search(r"\b[1-9]\d*/108", said):  # the bar leaves numbers out where frames are quick
        character = demo.stdout.read(1)
        assert character, said
        said += character
    (node,) = children(demo.pid)
    return node


def test_a_clip_in_lock_step_loses_nothing(tmp_path: Path) -> None:
    demo = start_demo(tmp_path, "--frames", "5")
    said, _ = demo.communicate(timeout=PATIENCE)
    assert demo.returncode == 0, said
    assert "RANDOM WEIGHTS" in said
    assert "RANDOM WEIGHTS" in (tmp_path / "vo_node.log").read_text()

    summary = json.loads((tmp_path / "summary.json").read_text())
    assert summary["complete"] is True
    assert (summary["frames_in"], summary["frames_processed"], summary["frames_dropped"]) == (5, 5, 0)
    assert summary["depth_images"] == 5
    assert (summary["weights"], summary["network"], summary["device"]) == ("random", "small", "cpu")
    assert 0 < summary["latency_ms"]["median"] <= summary["latency_ms"]["p95"]
    assert summary["rmw"].startswith("rmw_")

    trajectory = read_trajectory(tmp_path / "trajectory_tum.txt")
    np.testing.assert_array_equal(trajectory.stamps_ns, read_times(CLIP / "times.txt")[:5])
    np.testing.assert_allclose(trajectory.poses[0], np.eye(4), atol=1e-8)
    assert trajectory.distances()[-1] > 0
    for picture in ("trajectory.png", "depth.png"):
        pixels = matplotlib.image.imread(tmp_path / picture)
        assert min(pixels.shape[:2]) > 500
        assert pixels.std() > 0.05


@pytest.mark.parametrize("end", ["the node dies", "Ctrl-C"])
def test_what_came_back_is_written_when_it_ends_early(tmp_path: Path, end: str) -> None:
    (tmp_path / "depth.png").write_bytes(b"of an earlier demo")
    demo = start_demo(tmp_path)
    node = wait_until_playing(demo)
    if end == "Ctrl-C":
        demo.send_signal(signal.SIGINT)
    else:
        os.kill(node, signal.SIGKILL)
    said, _ = demo.communicate(timeout=PATIENCE)
    if end == "Ctrl-C":
        assert demo.returncode == 130, said
        assert "interrupted" in said
    else:
        assert demo.returncode == 2, said
        assert re.search(r"vo_node ended with status -9: \S+", said)
    assert "Traceback" not in said
    assert not Path(f"/proc/{node}").exists()
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert summary["complete"] is False
    assert 0 < summary["frames_processed"] < 108
    assert len(read_trajectory(tmp_path / "trajectory_tum.txt")) == summary["frames_processed"]
    assert (tmp_path / "depth.png").stat().st_size > 10_000


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--clip", "nowhere"], "nowhere does not exist"),
        (["--rate", "0"], "--rate must be positive"),
        (["--frames", "-3"], "--frames must be positive"),
        (["--out", __file__], "name another folder"),
    ],
)
def test_bad_arguments_end_with_one_sentence(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], arguments: list[str], sentence: str
) -> None:
    assert main(["demo", "--out", str(tmp_path), *arguments]) == 2
    (line,) = capfd.readouterr().err.splitlines()
    assert sentence in line


def test_another_node_on_the_topics_is_not_mistaken_for_the_demos(ros: None, tmp_path: Path) -> None:
    other = Node("another_vo_node")
    try:
        other.create_subscription(Image, "image", lambda message: None, 10)
        demo = start_demo(tmp_path, "--frames", "2")  # in the domain of these tests, since that is set
        said, _ = demo.communicate(timeout=PATIENCE)
    finally:
        other.destroy_node()
    assert demo.returncode == 2, said
    assert "Another node is on /image" in said.splitlines()[-1]
    assert not (tmp_path / "summary.json").exists()


def test_ground_truth_of_the_camera_is_moved_to_the_base() -> None:
    """A camera one metre ahead of the base turns left by a quarter: the base swings around it."""
    T_base_cam = np.array([[0.0, 0, 1, 1], [-1, 0, 0, 0], [0, -1, 0, 2], [0, 0, 0, 1]])
    start = np.array([[0.0, -1, 0, 5], [1, 0, 0, 6], [0, 0, 1, 7], [0, 0, 0, 1]])  # anywhere
    turn = np.array([[0.0, 0, -1, 0], [0, 1, 0, 0], [1, 0, 0, 0], [0, 0, 0, 1]])
    camera = Trajectory(np.array([start, start @ turn]), stamps_ns=np.array([1, 2]))
    base = move_to_base(camera, T_base_cam)
    np.testing.assert_allclose(base.poses[0], np.eye(4), atol=1e-12)
    np.testing.assert_allclose(base.positions[1], [1, -1, 0], atol=1e-12)


def frame(stamp_ns: int) -> Frame:
    return Frame(stamp_ns, np.zeros((20, 40, 3), np.uint8), Intrinsics(30, 30, 20, 10, 40, 20))


@pytest.mark.parametrize("depth", [2.0, np.nan])
def test_a_depth_without_range_is_drawn(tmp_path: Path, depth: float) -> None:
    sheet = [(frame(0), np.full((20, 40), depth, np.float32))]
    draw_depth_sheet(tmp_path / "depth.png", sheet, "clip", "unknown")
    assert (tmp_path / "depth.png").stat().st_size > 1000


@pytest.mark.parametrize(
    ("near", "far", "ticks"),
    [(5.39, 64.1, [10, 20, 50]), (0.9, 5.0, [1, 2, 5]), (6.0, 9.0, [6.0, 9.0])],
)
def test_depths_are_marked_by_round_numbers(near: float, far: float, ticks: list[float]) -> None:
    assert round_numbers(near, far) == pytest.approx(ticks)


def test_counts_and_latencies_of_a_recording_with_drops(tmp_path: Path) -> None:
    recording = Recording(
        sent={0: 0.0, 1: 0.1, 2: 0.2, 3: 0.3},
        poses={0: np.eye(4), 3: np.eye(4)},
        latencies={0: 0.1, 3: 0.3},
        depth_stamps={0, 3},
    )
    summary = write_results(tmp_path, recording, None, np.eye(4), "clip", {"weights": "w"})
    assert summary == json.loads((tmp_path / "summary.json").read_text())
    assert (summary["frames_in"], summary["frames_processed"], summary["frames_dropped"]) == (4, 2, 2)
    assert summary["latency_ms"] == {"median": 200.0, "p95": 290.0}
    assert summary["against_ground_truth"] is None
    assert (tmp_path / "trajectory.png").exists()


def test_an_interruption_that_python_swallows_is_raised_again() -> None:
    interruption = Interruption()
    interruption.check()
    with pytest.raises(KeyboardInterrupt):
        interruption(signal.SIGINT, None)
    with pytest.raises(KeyboardInterrupt):
        interruption.check()
