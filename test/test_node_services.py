"""reset, pause, save_trajectory and set_pose, over DDS."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from geometry_msgs.msg import PoseWithCovarianceStamped, TwistStamped
from hypothesis import given
from hypothesis import strategies as st
from nav_msgs.msg import Odometry
from node_harness import SECOND
from rclpy.parameter import Parameter
from std_srvs.srv import SetBool, Trigger

from dualrefine_ros.errors import ConfigError
from dualrefine_ros.geometry.trajectory import Trajectory, read_trajectory
from dualrefine_ros.ros.services import save_trajectory

TRAJECTORY = Trajectory(np.eye(4)[None], stamps_ns=np.array([1]))


def x(robot) -> list[float]:
    return [m.pose.pose.position.x for m in robot.heard["odometry"]]


def test_reset_begins_anew_at_the_origin(engine, robot, make_node) -> None:
    make_node()
    robot.publish_camera_info()
    robot.drive([SECOND, 2 * SECOND])
    assert robot.call("vo_node/reset", Trigger).success
    robot.drive([3 * SECOND, 4 * SECOND])
    assert x(robot) == pytest.approx([0.0, 1.0, 0.0, 1.0])
    assert engine.resets == 1
    robot.wait(lambda: len(robot.heard["path"]) == 4, "the path")
    assert [len(path.poses) for path in robot.heard["path"]] == [1, 2, 1, 2]


def test_pause_skips_images_and_counts_them(engine, robot, make_node) -> None:
    node = make_node()
    robot.publish_camera_info()
    robot.drive([1])
    assert robot.call("vo_node/pause", SetBool, data=True).success
    robot.publish_image(2)
    robot.wait(lambda: node.statistics.counts["skipped"] == 1, "the count")
    assert robot.call("vo_node/pause", SetBool, data=False).success
    robot.drive([3])
    assert engine.seen == [1, 3]


def test_the_trajectory_is_saved_where_a_parameter_says(robot, make_node, tmp_path: Path) -> None:
    node = make_node()
    answer = robot.call("vo_node/save_trajectory", Trigger)
    assert (answer.success, answer.message) == (False, "There is no pose to save yet.")
    robot.publish_camera_info()
    robot.drive([5 * SECOND, 6 * SECOND + 1])
    assert "trajectory_file" in robot.call("vo_node/save_trajectory", Trigger).message
    path = tmp_path / "way.tum"
    assert node.set_parameters([Parameter("trajectory_file", value=str(path))])[0].successful
    for _ in range(2):  # it may be written again
        answer = robot.call("vo_node/save_trajectory", Trigger)
        assert answer.success, answer.message
    saved = read_trajectory(path)
    assert saved.stamps_ns is not None
    assert saved.stamps_ns.tolist() == [5 * SECOND, 6 * SECOND + 1]
    np.testing.assert_allclose(saved.positions, [[0, 0, 0], [1, 0, 0]], atol=1e-9)


def test_nothing_but_a_trajectory_is_overwritten(tmp_path: Path) -> None:
    diary, link = tmp_path / "diary.txt", tmp_path / "link.txt"
    diary.write_text("Dear diary\n")
    link.symlink_to(diary)
    (tmp_path / "folder.txt").mkdir()
    for name in ("diary.txt", "link.txt", "folder.txt", "missing/a.txt", "shell.rc", "", "a\0b.txt"):
        with pytest.raises(ConfigError):
            save_trajectory(str(tmp_path / name) if name else "", TRAJECTORY)
    assert diary.read_text() == "Dear diary\n"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["diary.txt", "folder.txt", "link.txt"]


UNWRITABLE = ("~nobody1/x.txt", "/etc/passwd/x.txt", f"/tmp/{'a' * 300}.txt", "/proc/x.txt")


@pytest.mark.parametrize("name", UNWRITABLE)
def test_a_path_that_cannot_be_written_is_refused_in_a_sentence(name: str) -> None:
    with pytest.raises(ConfigError, match=r"cannot be written .*: name another trajectory_file\.$"):
        save_trajectory(name, TRAJECTORY)


def test_a_folder_of_somebody_else_is_refused_in_a_sentence(tmp_path: Path) -> None:
    """In a process of its own: it gives up root's rights, should it have them."""
    closed = tmp_path / "closed"
    closed.mkdir(mode=0)
    program = (
        "import os, sys\n"
        "from test_node_services import ConfigError, TRAJECTORY, save_trajectory\n"
        "os.seteuid(65534) if os.geteuid() == 0 else None\n"
        "try:\n    save_trajectory(sys.argv[1], TRAJECTORY)\n"
        "except ConfigError as error:\n    print(error)\n"
    )
    command = [sys.executable, "-c", program, str(closed / "x.txt")]
    done = subprocess.run(command, cwd=Path(__file__).parent, capture_output=True, text=True, check=True)
    assert "cannot be written" in done.stdout


def test_the_node_survives_paths_that_cannot_be_written(robot, make_node) -> None:
    node = make_node()
    robot.publish_camera_info()
    robot.drive([1])
    for name in UNWRITABLE:
        assert node.set_parameters([Parameter("trajectory_file", value=name)])[0].successful
        answer = robot.call("vo_node/save_trajectory", Trigger)
        assert not answer.success
        assert "name another trajectory_file" in answer.message
    robot.drive([2])


@given(st.text(max_size=40))
def test_any_path_is_written_or_refused(tmp_path_factory: pytest.TempPathFactory, name: str) -> None:
    folder = tmp_path_factory.mktemp("paths")
    try:
        path = save_trajectory(str(folder / name.replace("..", "").lstrip("/~")), TRAJECTORY)
    except ConfigError:
        return
    assert path.suffix in (".txt", ".tum")
    assert len(read_trajectory(path)) == 1


def test_set_pose_moves_the_base_and_its_uncertainty(engine, robot, make_node) -> None:
    """The camera sits 0.3 m ahead of the base: what the engine is told is the camera's pose in its world."""
    make_node(assume_optical_at_base=False)
    set_pose = robot.node.create_publisher(PoseWithCovarianceStamped, "set_pose", 10)
    robot.wait(set_pose.get_subscription_count, "the subscription")
    robot.publish_extrinsics()
    robot.publish_camera_info()
    robot.drive([SECOND])
    message = PoseWithCovarianceStamped()
    message.header.frame_id = "odom"
    message.pose.pose.position.x, message.pose.pose.position.y = 7.0, -2.0
    message.pose.pose.orientation.z = message.pose.pose.orientation.w = np.sqrt(0.5)  # to the left
    sigma = np.diag([0.04, 0.01, 0.09, 1e-4, 1e-4, 2e-4])
    message.pose.covariance = sigma.ravel()
    set_pose.publish(message)
    robot.spin_for(0.3)
    robot.drive([2 * SECOND])
    p = robot.heard["odometry"][-1].pose.pose.position
    np.testing.assert_allclose([p.x, p.y, p.z], [7.0, -1.0, 0.0], atol=1e-9)  # a metre to the left
    twist = robot.heard["odometry"][-1].twist.twist.linear
    np.testing.assert_allclose([twist.x, twist.y], [1.0, 0.0], atol=1e-9)  # being put there is no motion

    # Monte Carlo: errors of the base's pose as ROS means them, seen as errors of the camera in its world
    T_base_cam = np.array([[0.0, 0, 1, 0.3], [-1, 0, 0, 0], [0, -1, 0, 1.2], [0, 0, 0, 1]])
    T_odom_base = np.array([[0.0, -1, 0, 7], [1, 0, 0, -2], [0, 0, 1, 0], [0, 0, 0, 1]])
    T_world_cam, covariance = engine.poses_set[0]
    T_world_odom = np.linalg.inv(T_base_cam)
    np.testing.assert_allclose(T_world_cam, T_world_odom @ T_odom_base @ T_base_cam, atol=1e-9)
    random = np.random.default_rng(0)
    samples = []
    for _ in range(4000):
        error = np.sqrt(np.diag(sigma)) * random.standard_normal(6)
        a, b, c = error[3:]
        moved = np.eye(4)
        moved[:3, :3] = (np.eye(3) + np.array([[0, -c, b], [c, 0, -a], [-b, a, 0]])) @ T_odom_base[:3, :3]
        moved[:3, 3] = T_odom_base[:3, 3] + error[:3]
        delta = T_world_odom @ moved @ T_base_cam @ np.linalg.inv(T_world_cam)
        samples.append([*delta[:3, 3], delta[2, 1], delta[0, 2], delta[1, 0]])
    measured = np.cov(np.array(samples).T)
    scale = np.sqrt(np.outer(np.diag(covariance), np.diag(covariance)))
    np.testing.assert_allclose(covariance / scale, measured / scale, atol=0.08)


def test_only_what_was_asked_last_counts_however_long_no_image_comes(engine, robot, make_node) -> None:
    """A localisation that sets the pose a hundred times a second must not fill the memory."""
    node = make_node()
    robot.publish_camera_info()
    robot.drive([1])

    def place(x: float) -> None:
        T = np.eye(4)
        T[0, 3] = x
        node.tracker.set_pose(T, np.eye(6))

    for metres in range(1000):
        place(float(metres))
    robot.drive([2])
    assert len(engine.poses_set) == 1
    assert x(robot)[-1] == pytest.approx(1000.0)  # 999, and a step
    place(7.0)
    node.tracker.reset()
    robot.drive([3])
    assert (len(engine.poses_set), engine.resets) == (1, 1)
    node.tracker.reset()
    place(7.0)
    robot.drive([4])
    assert (len(engine.poses_set), engine.resets) == (2, 2)
    assert x(robot)[-1] == pytest.approx(8.0)


@pytest.mark.parametrize("fault", ["frame", "position", "far", "covariance", "asymmetric"])
def test_a_pose_that_makes_no_sense_is_refused(engine, robot, make_node, capfd, fault: str) -> None:
    make_node()
    set_pose = robot.node.create_publisher(PoseWithCovarianceStamped, "set_pose", 10)
    robot.wait(set_pose.get_subscription_count, "the subscription")
    message = PoseWithCovarianceStamped()
    message.header.frame_id = "map" if fault == "frame" else "odom"
    message.pose.pose.orientation.w = 1.0
    message.pose.pose.position.x = {"position": np.nan, "far": 1e200}.get(fault, 0.0)
    covariance = np.eye(6)
    covariance[0, 1] = {"covariance": np.nan, "asymmetric": 0.5}.get(fault, 0.0)
    message.pose.covariance = covariance.ravel()
    set_pose.publish(message)
    said = ""

    def refused() -> bool:
        nonlocal said
        said += capfd.readouterr().err
        return "refused" in said

    robot.wait(refused, "the warning")
    robot.publish_camera_info()
    robot.drive([1])
    assert engine.poses_set == []


@pytest.mark.parametrize("kind", ["odometry", "twist"])
def test_speed_for_the_scale_comes_from_a_topic(engine, robot, make_node, kind: str) -> None:
    make_node(scale__mode="external", scale__topic="wheels", scale__topic_type=kind)
    message = {"odometry": Odometry, "twist": TwistStamped}[kind]()
    wheels = robot.node.create_publisher(type(message), "wheels", 10)
    robot.wait(wheels.get_subscription_count, "the subscription")
    message.header.stamp.sec = 3
    linear = (message.twist.twist if kind == "odometry" else message.twist).linear
    linear.x, linear.y = 3.0, -4.0
    wheels.publish(message)
    robot.wait(lambda: engine.speeds, "the speed")
    assert engine.speeds == [(3 * SECOND, 5.0)]
