"""What is let in: pairs images with their calibration, thins them out, and hands on the newest."""

from __future__ import annotations

import time
from collections.abc import Callable

from rclpy.node import Node
from sensor_msgs.msg import CameraInfo, CompressedImage, Image

from dualrefine_ros.gates import RateLimiter
from dualrefine_ros.ros.config import NodeConfig
from dualrefine_ros.ros.conversions import stamp_to_ns
from dualrefine_ros.ros.inputs import Input
from dualrefine_ros.ros.statistics import Statistics
from dualrefine_ros.ros.worker import Mailbox

Pair = tuple[Image | CompressedImage, CameraInfo]


class Intake:
    """Subscriptions to images and calibration, and what becomes of their messages before the engine.

    Args:
        node: to subscribe on.
        config: asked anew for each image, so that changes count at once.
        mailbox: of the worker.
        statistics: that every image is counted in.
    """

    def __init__(
        self,
        node: Node,
        config: Callable[[], NodeConfig],
        mailbox: Mailbox[Pair],
        statistics: Statistics,
    ) -> None:
        self.paused = False
        self.camera_info: CameraInfo | None = None
        self._config = config
        self._mailbox = mailbox
        self._statistics = statistics
        self._uncalibrated: Image | CompressedImage | None = None
        self._limiter = RateLimiter(config().max_rate)
        self._max_rate = config().max_rate

        topics, qos = config(), config().image_qos
        self.infos = Input(node, CameraInfo, topics.camera_info_topic, self._on_camera_info, qos)
        if topics.image_transport == "compressed":
            topic = f"{topics.image_topic}/compressed"
            self.images = Input(node, CompressedImage, topic, self._on_image, qos)
        else:
            self.images = Input(node, Image, topics.image_topic, self._on_image, qos)

    def close(self) -> None:
        """Stop listening."""
        self.images.close()
        self.infos.close()
        if self._uncalibrated is not None:
            self._statistics.count("waiting")

    def _on_camera_info(self, message: CameraInfo) -> None:
        self.camera_info = message
        if self._uncalibrated is not None:
            self._hand_on(self._uncalibrated, message)
            self._uncalibrated = None

    def _on_image(self, message: Image | CompressedImage) -> None:
        self._statistics.count("received")
        self._statistics.last_received = time.monotonic()
        if self.paused or not self._is_due(message):
            self._statistics.count("skipped")
        elif self.camera_info is not None:
            self._hand_on(message, self.camera_info)
        else:
            # The two topics have no common order: the first calibration may come after its image
            if self._uncalibrated is not None:
                self._statistics.count("waiting")
            self._uncalibrated = message

    def _is_due(self, message: Image | CompressedImage) -> bool:
        max_rate = self._config().max_rate
        if max_rate != self._max_rate:
            self._max_rate, self._limiter = max_rate, RateLimiter(max_rate)
        return self._limiter.admits(stamp_to_ns(message.header.stamp))

    def _hand_on(self, message: Image | CompressedImage, info: CameraInfo) -> None:
        if self._mailbox.put((message, info)):
            self._statistics.count("dropped")
