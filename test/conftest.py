"""What every test runs under: a ROS 2 of its own, few threads, no window, no deadlines."""

import os
import sys

# Set before anything imports torch, matplotlib or rclpy; processes that tests start inherit it.
os.environ["ROS_DOMAIN_ID"] = str(1 + os.getpid() % 100)  # not that of a robot, or of another run
os.environ["ROS_AUTOMATIC_DISCOVERY_RANGE"] = "LOCALHOST"
os.environ["OMP_NUM_THREADS"] = "2"
os.environ["GOMP_SPINCOUNT"] = "1000"  # as dualrefine_ros.waiting has it
os.environ["MPLBACKEND"] = "Agg"

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import pytest
from hypothesis import settings

settings.register_profile("dualrefine_ros", deadline=None, derandomize=True)  # the same on every machine
settings.load_profile("dualrefine_ros")


@pytest.fixture(scope="session", autouse=True)
def _ros_logs(tmp_path_factory: pytest.TempPathFactory) -> None:
    os.environ["ROS_LOG_DIR"] = str(tmp_path_factory.mktemp("ros_logs"))


@pytest.fixture(autouse=True)
def _threads() -> Iterator[None]:
    """A node that starts takes the main thread's helpers away: the next test has them again."""
    yield
    if "torch" in sys.modules:
        import torch

        torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))


# What the tests of the node share; imported where it is used, for most tests need no ROS.
if TYPE_CHECKING:
    from node_harness import ObedientEngine, Robot

    from dualrefine_ros.ros.node import VoNode


@pytest.fixture(scope="module")
def ros() -> Iterator[None]:
    import rclpy

    rclpy.init()
    yield
    rclpy.try_shutdown()


@pytest.fixture
def engine() -> Iterator["ObedientEngine"]:
    from node_harness import ObedientEngine

    engine = ObedientEngine()
    yield engine
    engine.go.set()


@pytest.fixture
def robot(ros: None) -> Iterator["Robot"]:
    from node_harness import Robot

    robot = Robot()
    yield robot
    robot.close()


@pytest.fixture
def make_node(engine: "ObedientEngine", robot: "Robot") -> Iterator[Callable[..., "VoNode"]]:
    """Starts a node with these parameters (``scale__mode`` for ``scale.mode``) in the robot's executor."""
    from rclpy.parameter import Parameter

    from dualrefine_ros.ros.node import VoNode, start

    nodes: list[VoNode] = []

    def make_node(**parameters: object) -> VoNode:
        given = {"assume_optical_at_base": True, **parameters}
        overrides = [Parameter(name.replace("__", "."), value=value) for name, value in given.items()]
        node = VoNode(lambda _: engine, parameter_overrides=overrides)
        nodes.append(node)
        robot.executor.add_node(node)
        if node.config.autostart:
            start(node)
            robot.wait_for_node()
        return node

    yield make_node
    engine.go.set()
    for node in nodes:
        robot.executor.remove_node(node)
        node.close()
        node.destroy_node()
