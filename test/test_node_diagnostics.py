"""What /diagnostics says, and that it names the likely cause."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from node_harness import SECOND, Robot
from rclpy.qos import ReliabilityPolicy
from sensor_msgs.msg import CameraInfo

from dualrefine_ros.errors import DeviceError
from dualrefine_ros.frame import Status
from dualrefine_ros.ros.diagnostics import Diagnostics

OK, WARN, ERROR = DiagnosticStatus.OK, DiagnosticStatus.WARN, DiagnosticStatus.ERROR


class Ear:
    """Asks the node for a look at itself, without waiting for the second to pass."""

    def __init__(self, node) -> None:
        self.diagnostics: Diagnostics = node._diagnostics
        self.heard: list[DiagnosticArray] = []
        self.diagnostics._publisher = self

    def publish(self, message: DiagnosticArray) -> None:
        self.heard.append(message)

    def look(self) -> dict[str, DiagnosticStatus]:
        self.diagnostics._look()
        return {status.name.rpartition(": ")[2]: status for status in self.heard[-1].status}


def values(status: DiagnosticStatus) -> dict[str, str]:
    return {pair.key: pair.value for pair in status.values}


def test_once_a_second_with_every_figure(engine, robot, make_node) -> None:
    node = make_node(checkpoint="some.safetensors")
    robot.listen("/diagnostics", DiagnosticArray)
    robot.publish_camera_info()
    now = node.get_clock().now().nanoseconds
    robot.drive([now, now + 1])
    robot.wait(lambda: len(robot.heard["/diagnostics"]) >= 2, "diagnostics")
    stamps = [m.header.stamp.sec + m.header.stamp.nanosec * 1e-9 for m in robot.heard["/diagnostics"][:2]]
    assert stamps[1] > stamps[0]
    statuses = {s.name: s for s in robot.heard["/diagnostics"][-1].status}
    assert set(statuses) == {"/vo_node: input", "/vo_node: odometry"}
    assert {s.level for s in statuses.values()} == {OK}
    assert values(statuses["/vo_node: input"])["received"] == "2"
    figures = values(statuses["/vo_node: odometry"])
    assert {"processed rate [Hz]", "stage encode [ms]", "iterations", "scale", "lost", "device"} <= set(
        figures
    )
    assert {"latency median [ms]", "latency 95 % [ms]", "latency maximum [ms]"} <= set(figures)
    assert float(figures["peak memory [MiB]"]) > 10
    assert node.statistics.counts["answered"] == 2


def test_a_best_effort_camera_and_a_reliable_node_never_match(engine, robot, make_node, capfd) -> None:
    node = make_node(image_qos="reliable", image_timeout=0.2)
    robot.node.destroy_publisher(robot.images)
    camera = Robot(reliability=ReliabilityPolicy.BEST_EFFORT)
    robot.executor.add_node(camera.node)
    ear = Ear(node)
    said = ""

    def named() -> bool:
        nonlocal said
        said += capfd.readouterr().err
        return "they never match" in said  # at once, by the event of the middleware

    robot.wait(named, "the warning")
    robot.wait(lambda: "they never match" in ear.look()["input"].message, "the diagnosis")
    status = ear.look()["input"]
    assert status.level == ERROR
    assert status.message.startswith("no image on /image for ")
    assert "best-effort and image_qos is reliable" in status.message
    robot.executor.remove_node(camera.node)
    camera.close()


def test_silence_has_a_cause(engine, robot, make_node) -> None:
    node = make_node(image_timeout=0.1)
    ear = Ear(node)
    robot.spin_for(0.3)
    assert "(robot) is there but sends nothing" in ear.look()["input"].message
    robot.node.destroy_publisher(robot.images)
    robot.wait(lambda: "nobody publishes there" in ear.look()["input"].message, "the diagnosis")
    # Fast DDS gives one process no second type on one topic
    node.get_publishers_info_by_topic = lambda _: [
        SimpleNamespace(topic_type="sensor_msgs/msg/CompressedImage")
    ]
    assert "sensor_msgs/msg/CompressedImage and not sensor_msgs/msg/Image" in ear.look()["input"].message


def test_what_is_missing_wrong_or_slow_is_named(engine, robot, make_node) -> None:
    node = make_node(image_timeout=0.5, checkpoint="some.safetensors")
    ear = Ear(node)
    robot.publish_image(1)
    robot.spin_for(0.6)
    robot.publish_image(2)
    robot.wait(lambda: node.statistics.counts["received"] == 2, "the image")
    assert ear.look()["input"].message.startswith("no calibration on /camera_info; ")
    robot.camera_infos.publish(CameraInfo(width=64, height=48))
    robot.wait(lambda: "not calibrated" in ear.look()["input"].message, "the diagnosis")
    node.statistics.problems.clear()
    node.config = replace(node.config, image_timeout=60.0)  # from here on slowness is this machine's
    robot.publish_camera_info()
    robot.drive([3])
    robot.wait(lambda: ear.look()["input"].level == OK, "the all-clear")

    engine.failures[4] = DeviceError("The device is out of memory.")
    robot.publish_image(4)
    robot.wait(lambda: ear.look()["input"].level == ERROR, "the diagnosis")
    assert ear.look()["input"].message == "The device is out of memory."
    node.statistics.problems.clear()

    for status, level in ((Status.LOST, ERROR), (Status.DEGRADED, WARN)):
        engine.status = status
        robot.drive([5 + (status is Status.DEGRADED)])
        robot.wait(lambda level=level: ear.look()["odometry"].level == level, "the diagnosis")
        assert "As told." in ear.look()["odometry"].message
        node.statistics.problems.clear()
    assert values(ear.look()["odometry"])["lost"] == "1"

    ear.look()
    node.statistics.count("dropped", 9)
    node.statistics.count("received", 9)
    assert "the network is too slow" in ear.look()["input"].message
    node.paused = True
    assert ear.look()["input"].message.startswith("paused")


def test_a_missing_transform_is_named(robot, make_node) -> None:
    node = make_node(assume_optical_at_base=False)
    ear = Ear(node)
    robot.publish_camera_info()
    robot.publish_image(1)
    robot.wait(
        lambda: "No transform from 'camera' to 'base_link'" in ear.look()["input"].message, "the diagnosis"
    )
    assert not robot.heard["odometry"]
    assert not robot.heard["/tf"]


def test_latencies_of_another_clock_are_not_shown_as_such(engine, robot, make_node) -> None:
    node = make_node()
    robot.publish_camera_info()
    robot.drive([SECOND])  # 1970
    robot.wait(lambda: node.statistics.counts["answered"] == 1, "the count")
    assert node.statistics.latency() == {}
    robot.drive([node.get_clock().now().nanoseconds])
    robot.wait(lambda: node.statistics.counts["answered"] == 2, "the latency")
    assert 0 < node.statistics.latency()["median"] < 60


def test_random_weights_are_a_warning(robot, make_node) -> None:
    node = make_node(random_network="small")
    assert Ear(node).look()["odometry"].message.startswith("random weights")
