"""Configure, activate, deactivate, clean up: over DDS as a lifecycle manager does it."""

from __future__ import annotations

import threading

import numpy as np
import pytest
from lifecycle_msgs.msg import State, Transition
from lifecycle_msgs.srv import ChangeState, GetState
from rclpy.parameter import Parameter

from dualrefine_ros.errors import CheckpointError
from dualrefine_ros.ros.node import VoNode


def change(robot, transition: int) -> bool:
    return robot.call("vo_node/change_state", ChangeState, transition=Transition(id=transition)).success


def state(robot) -> int:
    return robot.call("vo_node/get_state", GetState).current_state.id


def test_the_whole_life(engine, robot, make_node) -> None:
    node = make_node(autostart=False)
    assert state(robot) == State.PRIMARY_STATE_UNCONFIGURED
    assert node.count_publishers("odometry") == 0

    assert change(robot, Transition.TRANSITION_CONFIGURE)
    robot.wait(lambda: robot.node.count_publishers("odometry"), "the publishers")
    assert robot.images.get_subscription_count() == 0  # not before it is active
    assert change(robot, Transition.TRANSITION_ACTIVATE)
    robot.wait_for_node()
    robot.publish_camera_info()
    robot.drive([1])

    assert change(robot, Transition.TRANSITION_DEACTIVATE)
    assert engine.releases == 1  # of the device's memory
    robot.wait(lambda: not robot.images.get_subscription_count(), "the end of the subscription")
    assert change(robot, Transition.TRANSITION_ACTIVATE)
    robot.wait_for_node()
    robot.publish_camera_info()
    robot.drive([2])
    assert robot.heard["odometry"][-1].pose.pose.position.x == pytest.approx(1.0)  # it went on

    assert change(robot, Transition.TRANSITION_DEACTIVATE)
    assert change(robot, Transition.TRANSITION_CLEANUP)
    assert node.engine is None
    assert engine.releases == 3
    robot.wait(lambda: not robot.node.count_publishers("odometry"), "the end of the publishers")
    assert change(robot, Transition.TRANSITION_CONFIGURE)  # and once more
    assert change(robot, Transition.TRANSITION_ACTIVATE)
    robot.wait_for_node()
    assert change(robot, Transition.TRANSITION_ACTIVE_SHUTDOWN)
    assert state(robot) == State.PRIMARY_STATE_FINALIZED
    assert node.engine is None


def test_a_pause_ends_with_the_clean_up(robot, make_node) -> None:
    """The service that would end it is gone until then; while inactive it stands."""
    node = make_node()
    node.paused = True
    assert change(robot, Transition.TRANSITION_DEACTIVATE)
    assert node.paused
    assert change(robot, Transition.TRANSITION_CLEANUP)
    assert change(robot, Transition.TRANSITION_CONFIGURE)
    assert change(robot, Transition.TRANSITION_ACTIVATE)
    robot.wait_for_node()
    robot.publish_camera_info()
    robot.drive([1])


def test_a_transition_that_is_not_possible_is_refused_and_survived(robot, make_node) -> None:
    """As a lifecycle manager asks for one that configures a node which has started by itself."""
    make_node()
    assert not change(robot, Transition.TRANSITION_CONFIGURE)
    assert state(robot) == State.PRIMARY_STATE_ACTIVE
    robot.publish_camera_info()
    robot.drive([1])


def test_a_bad_checkpoint_is_a_failure_to_configure_with_its_reason(engine, robot, capfd) -> None:
    answers = [CheckpointError("weights.safetensors is damaged: download it again."), None]

    def make_engine(_):
        if error := answers.pop(0):
            raise error
        return engine

    node = VoNode(make_engine, parameter_overrides=[Parameter("autostart", value=False)])
    robot.executor.add_node(node)
    assert not change(robot, Transition.TRANSITION_CONFIGURE)
    assert state(robot) == State.PRIMARY_STATE_UNCONFIGURED
    assert "weights.safetensors is damaged" in capfd.readouterr().err
    assert node.error is None
    assert change(robot, Transition.TRANSITION_CONFIGURE)  # repaired meanwhile
    robot.executor.remove_node(node)
    node.close()
    node.destroy_node()


@pytest.mark.parametrize("topic", ["image_topic", "camera_info_topic"])
def test_a_topic_that_is_no_name_is_a_failure_to_configure(robot, make_node, topic: str) -> None:
    """And not to activate, which would come too late."""
    make_node(autostart=False, **{topic: "a b"})
    assert not change(robot, Transition.TRANSITION_CONFIGURE)
    assert state(robot) == State.PRIMARY_STATE_UNCONFIGURED


@pytest.mark.parametrize("topic", ["image", "camera_info"])
def test_a_failed_activation_undoes_itself_and_no_more(engine, robot, make_node, capfd, topic: str) -> None:
    """Again and again: the node stays configured, no thread and no half of a subscription is left."""
    threads = threading.active_count()
    node = make_node(autostart=False, **{f"qos_overrides./{topic}.subscription.depth": "many"})
    assert change(robot, Transition.TRANSITION_CONFIGURE)
    for _ in range(2):
        assert not change(robot, Transition.TRANSITION_ACTIVATE)
        assert state(robot) == State.PRIMARY_STATE_INACTIVE
        assert f"qos_overrides./{topic}." in capfd.readouterr().err
        assert (node.engine, node.worker, node.error) == (engine, None, None)
        assert threading.active_count() == threads
        assert not {s.topic_name for s in node.subscriptions} & {"/image", "/camera_info"}
    assert change(robot, Transition.TRANSITION_CLEANUP)
    assert node.engine is None


def test_qos_can_be_overridden_topic_by_topic(robot, make_node) -> None:
    override = {
        "qos_overrides./odometry.publisher.reliability": "best_effort",
        "qos_overrides./image.subscription.depth": 1,
    }
    node = make_node(autostart=False, **override)
    assert change(robot, Transition.TRANSITION_CONFIGURE)
    assert change(robot, Transition.TRANSITION_ACTIVATE)
    (info,) = node.get_publishers_info_by_topic("/odometry")
    assert info.qos_profile.reliability.name == "BEST_EFFORT"
    assert node.get_parameter("qos_overrides./image.subscription.depth").value == 1
    (info,) = node.get_publishers_info_by_topic("/path")
    assert info.qos_profile.reliability.name == "RELIABLE"


def test_two_cameras_side_by_side_do_not_hear_each_other(engine, robot) -> None:
    from node_harness import ObedientEngine, Robot

    nodes, robots = [], []
    for name in ("/left", "/right"):
        parameters = {"assume_optical_at_base": True, "publish_tf": False}
        overrides = [Parameter(key, value=value) for key, value in parameters.items()]
        node = VoNode(lambda _: ObedientEngine(), namespace=name, parameter_overrides=overrides)
        robot.executor.add_node(node)
        node.trigger_configure()
        node.trigger_activate()
        nodes.append(node)
        robots.append(Robot(name))
        robot.executor.add_node(robots[-1].node)
    left, right = robots
    robot.wait(lambda: all(r.images.get_subscription_count() for r in robots), "both nodes")
    robot.spin_for(0.3)
    left.publish_camera_info()
    left.publish_image(1)
    robot.wait(left.odometry_stamps, "odometry on the left")
    robot.spin_for(0.3)
    assert left.odometry_stamps() == [1]
    assert not right.heard["odometry"]
    assert np.isfinite(left.heard["odometry"][0].pose.covariance).all()
    for item in (*nodes, *robots):
        robot.executor.remove_node(getattr(item, "node", item))
        item.close()
