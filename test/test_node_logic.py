"""What the node decides, with an engine that does as it is told: over DDS, in one process."""

from __future__ import annotations

import threading
import time
from dataclasses import fields, replace
from operator import attrgetter
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from node_harness import SECOND, Robot
from rcl_interfaces.msg import ParameterType
from rclpy.parameter import Parameter
from rclpy.parameter_client import AsyncParameterClient
from rclpy.publisher import Publisher
from rclpy.qos import ReliabilityPolicy

from dualrefine_ros.errors import InputError
from dualrefine_ros.frame import Status
from dualrefine_ros.odometry import OdometryConfig
from dualrefine_ros.ros.config import NodeConfig
from dualrefine_ros.ros.engine import engine_config
from dualrefine_ros.ros.node import VoNode
from dualrefine_ros.ros.parameters import ros_name
from dualrefine_ros.ros.threads import compute_alone, compute_with
from dualrefine_ros.ros.worker import Mailbox, Worker


def ends(node: VoNode, *names: str) -> int:
    """How many images ended in one of these ways."""
    counts, _ = node.statistics.snapshot()
    return sum(counts[name] for name in names)


def forward(robot: Robot) -> list[float]:
    """Metres ahead of the origin, in the order of the odometry."""
    return [m.pose.pose.position.x for m in robot.heard["odometry"]]


def test_parameters_repeat_the_engine_defaults() -> None:
    assert engine_config(NodeConfig()) == OdometryConfig()


@pytest.mark.parametrize(
    ("parameter", "value", "where"),
    [
        ("iterations", 3, "iterations"),
        ("device", "cpu", "device"),
        ("precision", "bfloat16", "precision"),
        ("solver_tolerance", 0.5, "solver_tolerance"),
        ("on_device_error", "cpu", "on_device_error"),
        ("max_gap", 7.0, "max_gap"),
        ("min_flow", 7.0, "min_flow"),
        ("min_contrast", 7.0, "images.min_contrast"),
        ("refuse_frozen", False, "images.refuse_frozen"),
        ("max_speed", 7.0, "limits.max_speed"),
        ("max_rotation_rate", 7.0, "limits.max_rotation_rate"),
        ("min_agreement", 0.7, "limits.min_agreement"),
        ("max_agreement_loss", 0.7, "limits.max_agreement_loss"),
        ("still_enter", 0.01, "still.enter"),
        ("still_leave", 7.0, "still.leave"),
        ("covariance_factor", 7.0, "covariance.factor"),
        ("covariance_step_correlation", 0.7, "covariance.step_correlation"),
        ("scale_mode", "external", "scale.mode"),
        ("scale_factor", 7.0, "scale.factor"),
        ("scale_camera_height", 7.0, "scale.camera_height"),
    ],
)
def test_each_parameter_reaches_its_place_in_the_engine(parameter: str, value: object, where: str) -> None:
    config = engine_config(replace(NodeConfig(), **{parameter: value}))
    assert attrgetter(where)(config) == value
    assert attrgetter(where)(OdometryConfig()) != value


def test_the_newest_image_wins_and_the_rest_is_counted(engine, robot, make_node) -> None:
    node = make_node()
    robot.publish_camera_info()
    engine.go.clear()
    robot.publish_image(1)
    robot.wait(lambda: engine.seen == [1], "the engine to take the first image")
    for stamp in (2, 3, 4, 5):
        robot.publish_image(stamp)
    robot.wait(lambda: node.statistics.counts["dropped"] == 3, "three dropped images")
    engine.go.set()
    robot.wait(lambda: robot.odometry_stamps() == [1, 5], "odometry of the first and the newest")
    assert engine.seen == [1, 5]
    robot.wait(lambda: ends(node, "answered") == 2, "the count")


def test_an_image_before_its_calibration_is_kept(engine, robot, make_node) -> None:
    node = make_node()
    robot.publish_image(1)
    robot.publish_image(2)
    robot.spin_for(0.3)
    assert engine.seen == []
    robot.publish_camera_info()
    robot.publish_camera_info()
    robot.wait(lambda: robot.odometry_stamps() == [2], "odometry of the newest")
    robot.publish_image(3)
    robot.wait(lambda: robot.odometry_stamps() == [2, 3], "odometry of the next")
    assert engine.seen == [2, 3]
    assert node.statistics.counts["refused"] == 0


def test_no_large_image_is_lost_on_the_way(engine, make_node, robot) -> None:
    """A best-effort subscription loses most images of this size; the node's is reliable where it can be."""
    node = make_node()
    camera = Robot(size=(1242, 375))
    camera.wait(camera.images.get_subscription_count, "the node's subscription")
    camera.publish_camera_info()
    for stamp in range(1, 31):
        camera.publish_image(stamp)
        robot.spin_for(0.02)
    robot.wait(lambda: ends(node, "answered", "dropped") == 30, "an account of every image")
    camera.close()


@pytest.mark.parametrize("qos", ["auto", "sensor_data"])
def test_a_best_effort_camera_is_heard(robot, make_node, qos) -> None:
    camera = Robot(reliability=ReliabilityPolicy.BEST_EFFORT)
    robot.executor.add_node(camera.node)
    make_node(image_qos=qos)
    robot.wait(lambda: camera.images.get_subscription_count(), "a fitting subscription to images")
    robot.wait(lambda: camera.camera_infos.get_subscription_count(), "one to their calibration")
    camera.publish_camera_info()
    camera.publish_image(1)
    robot.wait(lambda: robot.odometry_stamps() == [1], "odometry")
    robot.executor.remove_node(camera.node)
    camera.close()


def test_tf_follows_what_the_image_showed(robot, make_node, monkeypatch) -> None:
    """The node hears its own transform: what is published after that waits for the executor."""
    sent: list[str] = []
    publish = Publisher.publish

    def recorded(publisher: Publisher, message: object) -> None:
        sent.append(type(message).__name__)
        publish(publisher, message)

    make_node()
    robot.publish_camera_info()
    monkeypatch.setattr(Publisher, "publish", recorded)
    robot.publish_image(1)
    robot.wait(lambda: "DiagnosticStatus" in sent, "the status of the image")
    answer = [name for name in sent[sent.index("Odometry") :] if name != "DiagnosticArray"]
    assert answer == ["Odometry", "Path", "Image", "CameraInfo", "TFMessage", "DiagnosticStatus"]


def test_iterations_change_with_the_next_image(engine, robot, make_node) -> None:
    node = make_node(iterations=2)
    robot.publish_camera_info()
    robot.publish_image(1)
    robot.wait(lambda: 1 in robot.odometry_stamps(), "odometry")
    assert node.set_parameters([Parameter("iterations", value=5)])[0].successful
    robot.publish_image(2)
    robot.wait(lambda: 2 in robot.odometry_stamps(), "odometry")
    assert engine.iterations_seen[1] == 5


def test_parameters_are_described_checked_and_changed(robot, make_node) -> None:
    """As ``ros2 param`` does it: through the services."""
    make_node(iterations=3)
    client = AsyncParameterClient(robot.node, "/vo_node")
    robot.wait(client.services_are_ready, "the parameter services")

    def ask(future):
        robot.wait(future.done, "an answer")
        return future.result()

    run_time = {ros_name(item): item.metadata["parameter"].run_time for item in fields(NodeConfig)}
    for description in ask(client.describe_parameters(list(run_time))).descriptors:
        assert len(description.description) > 10, description.name
        assert description.read_only != run_time[description.name]
        if description.type in (ParameterType.PARAMETER_INTEGER, ParameterType.PARAMETER_DOUBLE):
            assert description.integer_range or description.floating_point_range

    def set_one(name: str, value: object):
        return ask(client.set_parameters([Parameter(name, value=value)])).results[0]

    assert set_one("iterations", 4).successful
    assert not set_one("iterations", -1).successful
    assert not set_one("iterations", 2.5).successful
    assert "read-only" in set_one("base_frame", "elsewhere").reason
    assert set_one("scale.factor", 2.0).successful
    assert set_one("publish_tf", False).successful
    refused = set_one("still_leave", 0.01)  # lower than still_enter
    assert "enter <= leave" in refused.reason
    assert ask(client.get_parameters(["iterations"])).values[0].integer_value == 4


def test_a_refused_image_leaves_no_trace(engine, robot, make_node) -> None:
    node = make_node()
    robot.publish_camera_info()
    engine.failures[2 * SECOND] = InputError("It is black.")
    for stamp in (SECOND, 2 * SECOND, 3 * SECOND, 3 * SECOND):
        robot.publish_image(stamp)
        count = ends(node, "answered", "refused")
        robot.wait(lambda count=count: ends(node, "answered", "refused") > count, f"an end of {stamp}")
    robot.wait(lambda: len(robot.heard["odometry"]) == 2, "odometry")
    assert forward(robot) == pytest.approx([0.0, 1.0])
    # one metre since the image two seconds before, not since the refused one
    assert robot.heard["odometry"][1].twist.twist.linear.x == pytest.approx(0.5)
    assert (ends(node, "answered"), ends(node, "refused")) == (
        2,
        2,
    )  # the second refusal is the repeated stamp


def test_a_half_refined_image_is_published_with_a_warning(engine, robot, make_node, capfd) -> None:
    node = make_node()
    engine.status = Status.DEGRADED
    robot.publish_camera_info()
    robot.publish_image(1)
    robot.wait(lambda: robot.heard["depth/image"], "depth")
    robot.wait(lambda: ends(node, "answered"), "the count")
    assert "Degraded. As told." in capfd.readouterr().err
    assert robot.odometry_stamps() == [1]


def test_odometry_goes_on_from_the_last_pose_when_a_bag_starts_over(robot, make_node) -> None:
    make_node()
    robot.publish_camera_info()
    for number, stamp in enumerate((10 * SECOND, 11 * SECOND, 10 * SECOND, 11 * SECOND), 1):
        robot.publish_image(stamp)
        robot.wait(lambda number=number: len(robot.heard["path"]) == number, "its path")
    assert forward(robot) == pytest.approx(
        [0.0, 1.0, 2.0, 3.0]
    )  # the engine's; the real one pauses at a jump
    twists = [m.twist for m in robot.heard["odometry"]]
    assert [m.twist.linear.x for m in twists] == pytest.approx([0, 1, 0, 1])
    assert [m.covariance[0] > 100 for m in twists] == [True, False, True, False]
    assert [len(path.poses) for path in robot.heard["path"]] == [1, 2, 1, 2]


def test_the_path_forgets_its_oldest_poses(robot, make_node) -> None:
    make_node(path_length=2)
    robot.publish_camera_info()
    for stamp in (1, 2, 3):
        robot.publish_image(stamp)
        robot.wait(lambda stamp=stamp: len(robot.heard["path"]) == stamp, "its path")
    assert [p.pose.position.x for p in robot.heard["path"][-1].poses] == pytest.approx([1.0, 2.0])


def test_frames_and_topics_are_parameters(robot, make_node) -> None:
    node = make_node(base_frame="body", odom_frame="start", odometry_topic="odometry")
    robot.publish_camera_info()
    robot.publish_image(1)
    robot.wait(lambda: robot.heard["odometry"] and robot.heard["/tf"], "odometry and TF")
    assert robot.heard["odometry"][0].header.frame_id == "start"
    assert robot.heard["odometry"][0].child_frame_id == "body"
    assert robot.heard["/tf"][0].transforms[0].child_frame_id == "body"
    assert node.count_publishers("depth/camera_info") == 1


def test_the_camera_frame_can_be_named(robot, make_node) -> None:
    make_node(assume_optical_at_base=False, camera_frame="left_eye")
    robot.publish_extrinsics(camera_frame="left_eye")
    robot.publish_camera_info()
    robot.drive([1])
    robot.wait(lambda: robot.heard["depth/image"], "depth")
    assert robot.heard["depth/image"][0].header.frame_id == "camera"  # the image's own


def test_odometry_is_that_of_the_base(engine, robot, make_node) -> None:
    """A camera 0.3 m ahead of the base turns left by a quarter: the base swings around it."""
    make_node(assume_optical_at_base=False)
    engine.T_step = np.array([[0.0, 0, -1, 0], [0, 1, 0, 0], [1, 0, 0, 0], [0, 0, 0, 1]])
    robot.publish_extrinsics()
    robot.publish_camera_info()
    robot.drive([SECOND, 2 * SECOND])
    p, q = robot.heard["odometry"][1].pose.pose.position, robot.heard["odometry"][1].pose.pose.orientation
    np.testing.assert_allclose([p.x, p.y, p.z], [0.3, -0.3, 0.0], atol=1e-9)
    np.testing.assert_allclose([q.x, q.y, q.z, q.w], [0, 0, np.sqrt(0.5), np.sqrt(0.5)], atol=1e-9)
    twist = robot.heard["odometry"][1].twist.twist
    assert twist.angular.z == pytest.approx(np.pi / 2)
    # on an arc of a quarter turn, whose chord is (0.3, -0.3), the body's velocity is constant
    radius = np.hypot(0.3, 0.3) / (2 * np.sin(np.pi / 4))
    assert np.hypot(twist.linear.x, twist.linear.y) == pytest.approx(radius * np.pi / 2)


def test_a_mailbox_keeps_the_newest() -> None:
    mailbox: Mailbox[int] = Mailbox()
    assert [mailbox.put(item) for item in (1, 2, 3)] == [False, True, True]
    assert mailbox.take() == 3
    assert not mailbox.put(4)
    assert mailbox.close()  # something is left over
    assert mailbox.take() is None


def test_closing_a_worker_finishes_the_item_in_hand() -> None:
    begun, finish, done = threading.Event(), threading.Event(), []

    def handle(item: str) -> None:
        begun.set()
        finish.wait(60)
        done.append(item)

    worker = Worker(handle)
    worker.mailbox.put("in hand")
    assert begun.wait(60)
    worker.mailbox.put("left over")
    threading.Timer(0.05, finish.set).start()
    assert worker.close()
    assert done == ["in hand"]


def test_only_the_worker_computes_with_helpers() -> None:
    """Else libgomp lets them sleep between operations, and the network takes nearly twice as long."""
    found: dict[str, int] = {}

    def main_thread() -> None:
        threads = compute_alone()
        worker = Worker(
            lambda name: found.__setitem__(name, torch.get_num_threads()), lambda: compute_with(threads)
        )
        worker.mailbox.put("worker")
        while "worker" not in found:
            time.sleep(0.01)
        worker.close()
        found["before"] = threads

    torch.set_num_threads(3)
    thread = threading.Thread(target=main_thread)
    thread.start()
    thread.join()
    assert found == {"worker": 3, "before": 3}


def test_what_cannot_be_prepared_ends_the_worker_with_its_error() -> None:
    def fail() -> None:
        raise RuntimeError("no threads")

    worker: Worker[int] = Worker(lambda _: None, fail)
    worker.close()
    assert str(worker.error) == "no threads"


def test_the_parameter_file_lists_every_parameter_with_its_default() -> None:
    path = Path(__file__).parents[1] / "config" / "vo.yaml"
    values = yaml.safe_load(path.read_text())["/**"]["ros__parameters"]
    expected: dict[str, object] = {}
    for item in fields(NodeConfig):
        *groups, name = ros_name(item).split(".")
        group = expected
        for key in groups:
            group = group.setdefault(key, {})
        group[name] = item.default
    assert values == expected
