"""The launch files under a full ROS 2; skipped where its launch packages are missing (PyPI has none)."""

from __future__ import annotations

import json
import os
import runpy
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from nav_msgs.msg import Odometry
from node_harness import Robot
from sensor_msgs.msg import CameraInfo, Image

from dualrefine_ros.data.source import open_source

ROOT = Path(__file__).parents[1]
PATIENCE = 60.0


def launch_is_missing() -> str:
    try:
        import launch_ros  # noqa: F401
        from ament_index_python.packages import get_package_share_directory

        get_package_share_directory("dualrefine_ros")
    except Exception as error:
        return f"no full ROS 2 here ({error}): build with colcon and source install/setup.bash"
    return "" if shutil.which("ros2") else "no full ROS 2 here: the command ros2 is missing"


full_ros = pytest.mark.skipif(bool(launch_is_missing()), reason=launch_is_missing())


def ros2(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["ros2", *arguments], capture_output=True, text=True, timeout=PATIENCE)


@pytest.fixture
def launch(tmp_path: Path) -> Iterator:
    started: list[subprocess.Popen] = []

    def launch(*arguments: str) -> tuple[subprocess.Popen, Path]:
        log = tmp_path / "launch.log"
        with log.open("wb") as file:
            started.append(
                subprocess.Popen(
                    ["ros2", "launch", "dualrefine_ros", *arguments],
                    stdout=file,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                )
            )
        return started[-1], log

    yield launch
    for process in started:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


@full_ros
@pytest.mark.parametrize("file", ["vo.launch.py", "kitti_replay.launch.py"])
def test_every_argument_is_shown_with_its_description(file: str) -> None:
    shown = ros2("launch", "dualrefine_ros", file, "--show-args")
    assert shown.returncode == 0, shown.stderr
    assert "no description given" not in shown.stdout
    expected = {
        "vo.launch.py": "namespace image camera_info odometry depth_image params_file checkpoint device rviz "
        "use_sim_time log_level autostart base_frame odom_frame camera_frame",
        "kitti_replay.launch.py": "bag rate loop image camera_info rviz checkpoint device",
    }
    for argument in expected[file].split():
        assert f"'{argument}'" in shown.stdout


@full_ros
def test_a_launched_node_answers_under_its_arguments(ros, launch) -> None:
    process, log = launch(
        "vo.launch.py",
        "namespace:=front",
        "image:=/camera/image_rect",
        "camera_info:=/camera/camera_info",
        "odometry:=vo/odometry",
        "base_frame:=body",
        "odom_frame:=start",
        "device:=cpu",
    )
    robot = Robot()
    try:
        robot.images = robot.node.create_publisher(Image, "/camera/image_rect", 10)
        robot.camera_infos = robot.node.create_publisher(CameraInfo, "/camera/camera_info", 10)
        robot.listen("/front/vo/odometry", Odometry)
        robot.wait(lambda: process.poll() is None and robot.images.get_subscription_count(), "the node")
        robot.wait(robot.camera_infos.get_subscription_count, "the node")
        robot.publish_extrinsics(base_frame="body")
        robot.spin_for(0.5)
        robot.publish_camera_info()
        heard = robot.heard["/front/vo/odometry"]
        for stamp in range(1, 40):
            robot.publish_image(stamp)
            if robot.spin_until(lambda: heard, 1.0):
                break
        assert heard, log.read_text()
        assert (heard[0].header.frame_id, heard[0].child_frame_id) == ("start", "body")
    finally:
        robot.close()
    os.killpg(process.pid, signal.SIGINT)
    process.wait(PATIENCE)
    assert "images answered" in log.read_text()
    assert "Traceback" not in log.read_text()


@full_ros
def test_a_lifecycle_manager_may_start_the_node(ros, launch) -> None:
    from lifecycle_msgs.msg import Transition
    from lifecycle_msgs.srv import ChangeState

    launch("vo.launch.py", "autostart:=false", "namespace:=managed")
    robot = Robot("managed")
    try:
        for transition in (Transition.TRANSITION_CONFIGURE, Transition.TRANSITION_ACTIVATE):
            answer = robot.call("vo_node/change_state", ChangeState, transition=Transition(id=transition))
            assert answer.success
        robot.wait_for_node()
    finally:
        robot.close()


@full_ros
@pytest.mark.parametrize(
    ("outer", "namespace", "name"),
    [
        (None, "", "vo_node"),
        (None, "front", "front.vo_node"),
        (None, "/robot/front/", "robot.front.vo_node"),
        ("robot", "front", "robot.front.vo_node"),
        ("/robot", "", "robot.vo_node"),
        ("/robot", "/front", "front.vo_node"),
    ],
)
def test_the_log_level_is_that_of_the_node(outer: str | None, namespace: str, name: str) -> None:
    from launch import LaunchContext

    context = LaunchContext()
    context.launch_configurations["namespace"] = namespace
    if outer:
        context.launch_configurations["ros_namespace"] = outer
    assert runpy.run_path(str(ROOT / "launch/vo.launch.py"))["logger_name"](context) == name


@full_ros
def test_a_launched_node_keeps_to_its_log_level(ros, launch) -> None:
    process, log = launch("vo.launch.py", "namespace:=deep/down", "log_level:=error", "device:=cpu")
    robot = Robot("deep/down")
    try:
        robot.wait_for_node()
    finally:
        robot.close()
    os.killpg(process.pid, signal.SIGINT)
    process.wait(PATIENCE)
    assert "vo_node]: " not in log.read_text()


@full_ros
def test_rviz_hears_the_topics_of_the_node_in_its_frame() -> None:
    from launch.utilities import perform_substitutions

    from launch import LaunchContext

    module = runpy.run_path(str(ROOT / "launch/vo.launch.py"))
    context = LaunchContext()
    for declared in module["generate_launch_description"]().get_launch_arguments():
        declared.execute(context)
    context.launch_configurations.update(image="/cam/image_rect", depth_image="depth", odom_frame="start")
    vo_node, rviz = module["start_nodes"](context)
    arguments = [perform_substitutions(context, part) for part in rviz.cmd[1:5]]
    assert arguments == ["-d", str(module["RVIZ_FILE"]), "-f", "start"]
    for node in (vo_node, rviz):
        node._perform_substitutions(context)
    assert rviz.expanded_remapping_rules == vo_node.expanded_remapping_rules
    assert ("image", "/cam/image_rect") in rviz.expanded_remapping_rules
    assert ("depth/image", "depth") in rviz.expanded_remapping_rules


@full_ros
@pytest.mark.parametrize("loop", ["true", "false"])
def test_the_bag_is_played_with_its_clock(loop: str) -> None:
    from launch.utilities import perform_substitutions

    from launch import LaunchContext

    context = LaunchContext()
    context.launch_configurations.update(bag="/some/bag", rate="0.5", loop=loop)
    (player,) = runpy.run_path(str(ROOT / "launch/kitti_replay.launch.py"))["play"](context)
    command = [perform_substitutions(context, part) for part in player.cmd]
    expected = ["ros2", "bag", "play", "/some/bag", "--clock", "--rate", "0.5"]
    assert command == expected + ["--loop"] * (loop == "true")


@full_ros
def test_a_replayed_bag_is_answered_on_its_own_time(ros, launch, tmp_path: Path) -> None:
    if "play" not in ros2("bag", "--help").stdout:
        pytest.skip("the command ros2 bag is missing: install ros-$ROS_DISTRO-ros2bag")
    clip, bag = tmp_path / "clip", tmp_path / "bag"
    shutil.copytree(ROOT / "clips/kitti_0001", clip)
    for image in sorted((clip / "image_2").iterdir())[12:]:
        image.unlink()
    for name in ("times.txt", "poses.txt"):
        (clip / name).write_text("".join((clip / name).read_text().splitlines(keepends=True)[:12]))
    made = ["kitti-to-bag", str(clip), str(bag), "--images", "jpeg"]
    subprocess.run([sys.executable, "-m", "dualrefine_ros.tools.main", *made], check=True, timeout=PATIENCE)
    sent = {frame.stamp_ns for frame in open_source(bag)}
    # over and over, slowly: the node takes its time to come up
    arguments = ("image_transport:=compressed", "rviz:=false", "rate:=0.2", "loop:=true", "device:=cpu")
    process, log = launch("kitti_replay.launch.py", f"bag:={bag}", *arguments)
    robot = Robot()
    try:
        robot.wait(lambda: process.poll() is not None or len(robot.heard["odometry"]) > 2, "odometry")
        assert process.poll() is None, log.read_text()
        assert set(robot.odometry_stamps()) <= sent
        assert robot.heard["odometry"][0].child_frame_id == "base_link"
    finally:
        robot.close()
    os.killpg(process.pid, signal.SIGINT)
    process.wait(PATIENCE)
    said = [line for line in log.read_text().splitlines() if line.startswith("[vo_node")]
    assert any("images answered" in line for line in said)
    assert not any("Traceback" in line for line in said)


def test_rviz_shows_topics_that_the_node_has() -> None:
    config = yaml.safe_load((ROOT / "config/rviz/vo.rviz").read_text())
    displays = config["Visualization Manager"]["Displays"]
    topics = {display["Topic"]["Value"] for display in displays if "Topic" in display}
    assert topics == {"odometry", "path", "image", "depth/image", "depth/points"}
    assert {display["Class"].split("/")[0] for display in displays} == {"rviz_default_plugins"}


def test_the_foxglove_layout_places_every_panel_it_configures() -> None:
    layout = json.loads((ROOT / "config/foxglove/vo.json").read_text())

    def panels(node: str | dict) -> set[str]:
        return {node} if isinstance(node, str) else panels(node["first"]) | panels(node["second"])

    assert panels(layout["layout"]) == set(layout["configById"])
