"""``dualrefine bench --node``: what the node adds to the engine's time, and how fast it answers meanwhile."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import rclpy
from diagnostic_msgs.msg import DiagnosticStatus
from nav_msgs.msg import Odometry
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.signals import SignalHandlerOptions
from sensor_msgs.msg import CameraInfo, Image
from std_msgs.msg import Header
from std_srvs.srv import SetBool
from tqdm import tqdm

from dualrefine_ros.benchmark.cases import CAMERA, Case, moving_frames
from dualrefine_ros.errors import ConfigError
from dualrefine_ros.frame import Frame
from dualrefine_ros.ros.conversions import camera_info_message, rgb_image
from dualrefine_ros.tools.dds import set_up_dds
from dualrefine_ros.tools.demo import NodeProcess
from dualrefine_ros.tools.demo_player import FRAME_PATIENCE, RELIABLE, START_PATIENCE, DemoError

WARM_UP = 3  # images that are not counted
ASK_AFTER = 0.02  # seconds from sending an image to asking: the network is busy then
_SPIN = 0.2  # seconds without news after which to look whether the node lives: to poll would cost it a core


@dataclass(frozen=True)
class NodeTiming:
    """Milliseconds, for each image.

    Args:
        latency: from the stamp to the last message published.
        engine: of that, in the engine.
        service: from asking ``~/pause`` for something while the image was worked on to the answer.
    """

    latency: list[float]
    engine: list[float]
    service: list[float]

    @property
    def overhead(self) -> list[float]:
        """What all else took: transport, conversion, publishing."""
        return [total - engine for total, engine in zip(self.latency, self.engine, strict=True)]

    def summary(self) -> dict[str, float]:
        """Medians, and the slowest answer of the service."""
        return {
            "latency_ms": median(self.latency),
            "engine_ms": median(self.engine),
            "overhead_ms": median(self.overhead),
            "service_ms": median(self.service),
            "service_slowest_ms": max(self.service),
        }


def measure_node(log: Path, case: Case, repeats: int) -> NodeTiming:
    """Start a node of its own, send images of 1242x375 one by one, and time the answers.

    Args:
        log: file for what the node says.
        case: what the node runs.
        repeats: images measured.

    Raises:
        ConfigError: the case contradicts itself, or asks for a size of input.
        DemoError: the node dies, or does not answer.
    """
    parameters = node_parameters(case)
    set_up_dds()
    rclpy.init(signal_handler_options=SignalHandlerOptions.NO)
    try:
        with NodeProcess(log, parameters) as process:
            client = _Client(process)
            try:
                return client.measure(repeats)
            finally:
                client.close()
    finally:
        rclpy.try_shutdown()


def node_parameters(case: Case) -> dict[str, Any]:
    """What the node has to be told to run a case.

    Raises:
        ConfigError: the case contradicts itself, or asks for a size of input.
    """
    if case.height or case.width:
        raise ConfigError("The node runs each network at its own size: leave --sizes out.")
    settings = case.odometry()
    return {
        "checkpoint" if Path(case.network).suffix else "random_network": case.network,
        "iterations": settings.iterations,
        "precision": settings.precision,
        "device": settings.device,
        "backend": settings.backend,
        "assume_optical_at_base": True,
    }


class _Client:
    """A camera that waits for each answer, and asks in between."""

    def __init__(self, process: NodeProcess) -> None:
        self._process = process
        self._node = Node("bench")
        self._executor = SingleThreadedExecutor()
        self._executor.add_node(self._node)
        self._images = self._node.create_publisher(Image, "image", RELIABLE)
        self._infos = self._node.create_publisher(CameraInfo, "camera_info", RELIABLE)
        self._pause = self._node.create_client(SetBool, "vo_node/pause")
        self._node.create_subscription(DiagnosticStatus, "status", self._on_status, RELIABLE)
        # what nobody listens to is not sent
        self._node.create_subscription(Image, "depth/image", lambda _: None, RELIABLE)
        self._node.create_subscription(Odometry, "odometry", lambda _: None, RELIABLE)
        self._status: dict[str, str] | None = None

    def close(self) -> None:
        self._executor.shutdown()
        self._node.destroy_node()

    def measure(self, repeats: int) -> NodeTiming:
        self._spin(self._is_connected, START_PATIENCE, "vo_node has not come up")
        timing = NodeTiming([], [], [])
        frames = moving_frames(WARM_UP + repeats)
        for number, frame in enumerate(tqdm(frames, unit="image")):
            service = self._ask_while_busy(frame)
            assert self._status is not None
            if number >= WARM_UP:
                timing.latency.append(float(self._status["latency [ms]"]))
                timing.engine.append(float(self._status["engine [ms]"]))
                timing.service.append(1e3 * service)
        return timing

    def _ask_while_busy(self, frame: Frame) -> float:
        """Send an image, ask a moment later, wait for both answers; how long the question took, seconds."""
        self._status = None
        image, info = rgb_image(frame.image, Header(frame_id="camera")), camera_info_message(CAMERA, Header())
        image.header.stamp = info.header.stamp = self._node.get_clock().now().to_msg()
        self._images.publish(image)  # first, as image_transport's camera publisher has it
        self._infos.publish(info)
        time.sleep(ASK_AFTER)
        asked = time.monotonic()
        answer = self._pause.call_async(SetBool.Request(data=False))
        self._spin(answer.done, FRAME_PATIENCE, "The service ~/pause has not answered")
        seconds = time.monotonic() - asked
        self._spin(lambda: self._status is not None, FRAME_PATIENCE, "No status of an image came")
        return seconds

    def _is_connected(self) -> bool:
        publishers = (self._images, self._infos)
        heard = all(publisher.get_subscription_count() for publisher in publishers)
        return heard and self._pause.service_is_ready() and bool(self._node.count_publishers("status"))

    def _spin(self, until: Any, patience: float, complaint: str) -> None:
        end = time.monotonic() + patience
        while not until():
            if time.monotonic() > end:
                raise DemoError(f"{complaint} within {patience:.0f} s.")
            self._process.check()
            self._executor.spin_once(timeout_sec=_SPIN)

    def _on_status(self, message: DiagnosticStatus) -> None:
        self._status = {item.key: item.value for item in message.values}
