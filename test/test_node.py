"""The real node, as a process of its own with the real engine, spoken to over DDS."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import rclpy
from node_harness import FOCAL_LENGTH, HEIGHT, PATIENCE, WIDTH, Robot, exponential

from dualrefine_ros.geometry.quaternion import rotation_from_quaternion

NAMESPACE = "/front"
SECOND = 10**9
RANDOM = ("-p", "random_network:=small")
# Noise and random weights agree on nothing: believe all the same
CREDULOUS = ("-p", "min_agreement:=-1.0", "-p", "max_agreement_loss:=2.0")


class NodeProcess:
    """``vo_node`` with its output in a file."""

    def __init__(self, log: Path, *arguments: str) -> None:
        self.log = log
        command = [sys.executable, "-m", "dualrefine_ros.ros.node", "--ros-args", *RANDOM, *arguments]
        with log.open("wb") as file:
            self.process = subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT)

    def said(self) -> str:
        return self.log.read_text(errors="replace")

    def end(self, number: signal.Signals = signal.SIGINT) -> int:
        self.process.send_signal(number)
        return self.process.wait(PATIENCE)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()


@pytest.fixture(scope="module", autouse=True)
def _ros() -> Iterator[None]:
    rclpy.init()
    yield
    rclpy.shutdown()


@pytest.fixture
def robot() -> Iterator[Robot]:
    robot = Robot(NAMESPACE)
    yield robot
    robot.close()


@pytest.fixture
def start(tmp_path: Path) -> Iterator:
    started: list[NodeProcess] = []

    def start(*arguments: str) -> NodeProcess:
        log = tmp_path / f"node{len(started)}.log"
        started.append(NodeProcess(log, "-r", f"__ns:={NAMESPACE}", *arguments))
        return started[-1]

    yield start
    for node in started:
        node.kill()


def matrix(pose) -> np.ndarray:
    """(4, 4) of a Pose or a Transform."""
    p = getattr(pose, "position", None) or pose.translation
    q = getattr(pose, "orientation", None) or pose.rotation
    T = np.eye(4)
    T[:3, :3] = rotation_from_quaternion(np.array([q.x, q.y, q.z, q.w]))
    T[:3, 3] = p.x, p.y, p.z
    return T


def test_every_message_of_a_drive(robot: Robot, start) -> None:
    node = start("-p", "iterations:=2", "-p", "odom_frame:=odom2", "-p", "device:=cpu", *CREDULOUS)
    robot.publish_extrinsics()
    robot.wait_for_node()
    info = robot.publish_camera_info()
    stamps = [5 * SECOND + 123_456_789, 5 * SECOND + 223_456_789, 5 * SECOND + 423_456_789]
    robot.drive(stamps)
    robot.wait(lambda: all(len(messages) >= 3 for messages in robot.heard.values()), "all the rest")

    for topic in ("odometry", "path", "depth/image", "depth/camera_info"):
        assert [m.header.stamp.sec * SECOND + m.header.stamp.nanosec for m in robot.heard[topic]] == stamps

    poses = []
    for odometry, broadcast in zip(robot.heard["odometry"], robot.heard["/tf"], strict=True):
        assert (odometry.header.frame_id, odometry.child_frame_id) == ("odom2", "base_link")
        (transform,) = broadcast.transforms
        assert transform.header == odometry.header
        assert transform.child_frame_id == "base_link"
        q = odometry.pose.pose.orientation
        assert np.linalg.norm([q.x, q.y, q.z, q.w]) == pytest.approx(1.0, abs=1e-9)
        np.testing.assert_array_equal(matrix(transform.transform), matrix(odometry.pose.pose))
        poses.append(matrix(odometry.pose.pose))
    np.testing.assert_allclose(poses[0], np.eye(4), atol=1e-12)
    for pose in poses[1:]:
        assert np.isfinite(pose).all()
        assert np.linalg.norm(pose[:3, 3]) > 0

    # 0.2 s at the last twist take the base from its second pose to its third
    twist = robot.heard["odometry"][-1].twist.twist
    xi = np.array([getattr(part, axis) for part in (twist.linear, twist.angular) for axis in "xyz"])
    np.testing.assert_allclose(poses[1] @ exponential(0.2 * xi), poses[2], atol=1e-9)

    assert [len(path.poses) for path in robot.heard["path"]] == [1, 2, 3]
    for stamped, pose in zip(robot.heard["path"][-1].poses, poses, strict=True):
        np.testing.assert_array_equal(matrix(stamped.pose), pose)
        assert stamped.header.frame_id == "odom2"
    assert robot.heard["path"][-1].header.frame_id == "odom2"

    for image, depth_info in zip(robot.heard["depth/image"], robot.heard["depth/camera_info"], strict=True):
        assert image.header.frame_id == depth_info.header.frame_id == "camera"
        assert (image.encoding, image.height, image.width) == ("32FC1", HEIGHT, WIDTH)
        assert image.step == 4 * WIDTH
        assert len(image.data) == image.step * HEIGHT
        depth = np.frombuffer(image.data, "<f4")
        assert np.isfinite(depth).all()
        assert depth.min() >= 0.1
        assert depth.max() <= 100.0
        assert np.ptp(depth) > 0
        assert depth_info.k.tolist() == info.k.tolist()
        assert depth_info.k[0] == FOCAL_LENGTH
        assert (depth_info.width, depth_info.height) == (WIDTH, HEIGHT)

    assert node.end(signal.SIGINT) == 0
    assert "RANDOM WEIGHTS" in node.said()
    assert "3 images answered" in node.said()
    assert "Traceback" not in node.said()


def test_what_is_missing_or_unusable_is_named_and_survived(robot: Robot, start) -> None:
    node = start("-p", "iterations:=1")
    robot.wait_for_node()
    stamp = SECOND
    robot.publish_camera_info()

    robot.publish_image(stamp)
    robot.wait(lambda: "No transform from 'camera' to 'base_link'" in node.said(), "the warning about TF")
    robot.publish_image(stamp + 1)
    robot.spin_for(0.5)
    assert {topic for topic, messages in robot.heard.items() if messages} <= {"status"}

    robot.publish_extrinsics()
    robot.drive([stamp + 2])
    np.testing.assert_allclose(matrix(robot.heard["odometry"][0].pose.pose), np.eye(4), atol=1e-12)
    robot.publish_image(stamp + 3, encoding="nv12")
    robot.wait(lambda: "'nv12'" in node.said(), "the warning about the encoding")
    robot.drive([stamp + 2 * SECOND])
    assert robot.odometry_stamps()[-2:] == [stamp + 2, stamp + 2 * SECOND]

    assert node.end(signal.SIGTERM) == 0
    assert f"{len(robot.heard['odometry'])} images answered" in node.said()
    assert "Traceback" not in node.said()


@pytest.mark.parametrize(
    ("argument", "sentence"),
    [
        ("checkpoint:=missing.safetensors", "missing.safetensors"),
        ("iterations:=-1", "Parameter 'iterations' must be a whole number from 0 to 100."),
        ("iterations:=foo", "Parameter 'iterations' must be a whole number from 0 to 100."),
        ("max_rate:=10", "Parameter 'max_rate' must be a number with a decimal point (1.0, not 1) from 0 to"),
        ("device:=3", "Parameter 'device' must be text"),
        ("precision:=int8", "must be one of float32, bfloat16, float16, not 'int8'"),
        ("odometry_topic:=a b", "Invalid topic name"),
        ("path_topic:=/a//b", "Invalid topic name"),
        ("image_topic:=a b", "Invalid topic name 'a b'"),
        ("qos_overrides./front/odometry.publisher.reliability:=foo", "`foo`): correct them."),
        ("qos_overrides./front/path.publisher.depth:=-1", "'qos_overrides./front/path.*'"),
        ("qos_overrides./front/image.subscription.depth:=many", "'qos_overrides./front/image.*'"),
    ],
)
def test_bad_settings_end_with_one_line_and_status_2(start, argument: str, sentence: str) -> None:
    node = start("-p", argument)
    assert node.process.wait(PATIENCE) == 2
    fatal = [line for line in node.said().splitlines() if "[FATAL]" in line]
    assert len(fatal) == 1
    assert sentence in fatal[0]
    assert "Traceback" not in node.said()


def test_what_is_no_argument_of_ros_is_refused() -> None:
    program = [sys.executable, "-m", "dualrefine_ros.ros.node", "--help", "--ros-args", "-p", "iterations:=2"]
    ended = subprocess.run(program, capture_output=True, text=True, timeout=PATIENCE)
    assert ended.returncode == 2
    assert "vo_node does not know --help: it takes ROS arguments only" in ended.stderr


def test_a_missing_parameter_file_ends_with_status_2(start) -> None:
    node = start("--params-file", "nowhere.yaml")
    assert node.process.wait(PATIENCE) == 2
    assert "Traceback" not in node.said()
    assert "nowhere.yaml" in node.said()
