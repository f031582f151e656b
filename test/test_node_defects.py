"""What should not happen ends the process with status 1 and its cause in the log; nothing falls silent."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import rclpy
from rclpy.parameter import Parameter

from dualrefine_ros.ros.node import VoNode, spin, start

OVERRIDES = [Parameter("assume_optical_at_base", value=True)]


@pytest.fixture
def ros() -> Iterator[None]:
    """For each test anew: the end of a process is the end of its ROS."""
    rclpy.init()
    yield
    rclpy.try_shutdown()


def raise_a_bug(*_: object) -> None:
    raise ZeroDivisionError("a bug")


def test_an_error_that_should_not_happen_ends_the_node(engine, robot, capfd) -> None:
    """Falling silent would be worse; in a real executor, until the exit status."""
    engine.failures[7] = ZeroDivisionError("a bug")
    node = VoNode(lambda _: engine, parameter_overrides=OVERRIDES)
    start(node)
    robot.wait(lambda: robot.images.get_subscription_count(), "the node's subscriptions")
    robot.publish_camera_info()
    robot.publish_image(7)
    assert spin(node) == 1
    assert "ZeroDivisionError: a bug" in capfd.readouterr().err


def test_a_defect_while_it_starts_is_told(ros, capfd) -> None:
    """And not what rclpy says when it is asked to go on after it."""
    node = VoNode(raise_a_bug, parameter_overrides=OVERRIDES)
    start(node)
    assert spin(node) == 1
    said = capfd.readouterr().err
    assert "ZeroDivisionError: a bug" in said
    assert "please report" in said
    assert "Transition is not registered" not in said


def test_a_defect_in_a_callback_is_told_and_everything_is_closed(engine, ros, capfd) -> None:
    node = VoNode(lambda _: engine, parameter_overrides=OVERRIDES)
    start(node)
    node.create_timer(0.01, raise_a_bug)
    assert spin(node) == 1
    assert "ZeroDivisionError: a bug" in capfd.readouterr().err
    assert (node.engine, node.worker) == (None, None)
    assert engine.releases > 0
