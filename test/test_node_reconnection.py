"""A subscription that the middleware has matched on one side only hears nothing: the node subscribes anew.

Fast DDS does so now and then, never when asked. Here the node's first subscription is a real one, matched
over DDS, whose messages are lost on the way to the node.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import CameraInfo, Image

from dualrefine_ros.ros import inputs
from dualrefine_ros.ros.inputs import Input


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inputs, "SILENCE", 0.3)
    monkeypatch.setattr(inputs, "LOOK_PERIOD", 0.05)


def make_deaf(node: Any, monkeypatch: pytest.MonkeyPatch, subscriptions: int) -> None:
    """Have the next subscriptions to images and calibration, so many of each, lose what arrives."""
    create, left = node.create_subscription, {Image: subscriptions, CameraInfo: subscriptions}

    def create_subscription(kind, topic, callback, *arguments, **options):
        if left.get(kind):
            left[kind] -= 1
            callback = lambda _: None  # noqa: E731
        return create(kind, topic, callback, *arguments, **options)

    monkeypatch.setattr(node, "create_subscription", create_subscription)


def test_a_deaf_subscription_is_made_anew(engine, robot, make_node, monkeypatch, quick, capfd) -> None:
    node = make_node(autostart=False)
    node.trigger_configure()
    make_deaf(node, monkeypatch, subscriptions=2)
    node.trigger_activate()
    robot.wait_for_node()
    stamp = 0

    def answered() -> bool:
        nonlocal stamp
        stamp += 1
        robot.publish_camera_info()
        robot.publish_image(stamp)
        return robot.spin_until(robot.odometry_stamps, 0.2)

    robot.wait(answered, "odometry")
    assert capfd.readouterr().err.count("Nothing arrives on /image from robot: subscribed anew.") == 2
    # from now on nothing is lost, and nothing is made anew
    subscription = node.intake.images._subscription
    robot.spin_for(0.5)
    received = node.statistics.counts["received"]
    for _ in range(5):
        answered()
    robot.wait(lambda: node.statistics.counts["received"] == received + 5, "every image")
    assert node.intake.images._subscription is subscription


def test_a_camera_that_was_heard_may_be_silent(engine, robot, make_node, quick) -> None:
    """One that is triggered by hand, or a bag that is paused: nothing may get lost when it goes on."""
    node = make_node()
    robot.publish_camera_info()
    robot.drive([1])
    subscriptions = [node.intake.images._subscription, node.intake.infos._subscription]
    robot.spin_for(1.5)
    assert [node.intake.images._subscription, node.intake.infos._subscription] == subscriptions


def test_a_restarted_camera_must_be_heard_again(engine, robot, make_node, monkeypatch, quick) -> None:
    """The old one was heard; the new one is matched on one side only."""
    node = make_node()
    robot.publish_camera_info()
    robot.drive([1])
    robot.spin_for(0.2)  # the node looks who publishes
    heard = node.intake.images._subscription
    robot.node.destroy_publisher(robot.images)
    robot.images = robot.node.create_publisher(Image, "image", 10)
    robot.wait(lambda: node.intake.images._subscription is not heard, "a new subscription")
    robot.wait(robot.images.get_subscription_count, "each other")
    robot.spin_for(0.2)
    robot.drive([2])


def test_a_latched_calibration_is_heard(engine, robot, make_node) -> None:
    """Sent once, before the node came; and a publisher that keeps nothing may join it."""
    robot.node.destroy_publisher(robot.camera_infos)
    latched = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
    robot.camera_infos = robot.node.create_publisher(CameraInfo, "camera_info", latched)
    info = robot.publish_camera_info()
    node = make_node()
    robot.wait(lambda: node.intake.camera_info == info, "the calibration of before")
    robot.drive([1])
    passing = robot.node.create_publisher(CameraInfo, "camera_info", 10)
    robot.wait(passing.get_subscription_count, "a subscription that fits both")
    info.k[0] = 60.0
    passing.publish(info)
    robot.wait(lambda: node.intake.camera_info == info, "the calibration of the other")


class Clockwork:
    """A node without a ROS graph, and the time that it lives in."""

    def __init__(self) -> None:
        self.now = 0.0
        self.subscribed: list[float] = []
        self.publishers: list[Any] = []

    def monotonic(self) -> float:
        return self.now

    def create_subscription(self, *_: object, **__: object) -> Any:
        self.subscribed.append(self.now)
        return SimpleNamespace(topic_name="/image")

    def destroy_subscription(self, _: object) -> None: ...

    def create_timer(self, *_: object, **__: object) -> None: ...

    def resolve_topic_name(self, topic: str) -> str:
        return f"/{topic}"

    def get_publishers_info_by_topic(self, _: str) -> list[Any]:
        return self.publishers

    def get_logger(self) -> Any:
        return SimpleNamespace(info=lambda _: None)


def publisher(identity: int) -> Any:
    profile = SimpleNamespace(reliability=ReliabilityPolicy.RELIABLE)
    return SimpleNamespace(endpoint_gid=[identity] * 16, qos_profile=profile, node_name="camera")


def test_patience_grows_and_a_new_publisher_restores_it(ros, monkeypatch) -> None:
    clockwork = Clockwork()
    monkeypatch.setattr(inputs, "time", clockwork)
    images = Input(clockwork, Image, "image", lambda _: None, "auto")  # type: ignore[arg-type]

    def until(seconds: float) -> list[float]:
        clockwork.subscribed.clear()
        while clockwork.now < seconds:
            clockwork.now += 0.5
            images._look()
        return list(clockwork.subscribed)

    assert until(10) == []  # nobody is there to be heard
    clockwork.publishers = [publisher(1)]
    # there since 10.5 s; then after more than 6, 12 ... and 60 seconds
    expected = [10.5]
    for patience in (6, 12, 24, 48, 60, 60):
        expected.append(expected[-1] + patience + 0.5)
    assert until(expected[-1]) == expected[1:]
    clockwork.publishers = [publisher(2)]
    start = clockwork.now + 0.5
    assert until(start + 7) == [start + 6.5]
    images._hear(Image())
    assert until(start + 300) == []
