"""What is let in: pairs images with their calibration, thins them out, and hands on the newest."""

from __future__ import annotations

import re
import time
from collections.abc import Callable

from rclpy.node import Node
from sensor_msgs.msg import CameraInfo, CompressedImage, Image

from dualrefine_ros.errors import MessageError
from dualrefine_ros.gates import RateLimiter
from dualrefine_ros.ros.camera import Camera, is_same_calibration
from dualrefine_ros.ros.config import NodeConfig
from dualrefine_ros.ros.conversions import stamp_to_ns
from dualrefine_ros.ros.inputs import Input
from dualrefine_ros.ros.statistics import Statistics
from dualrefine_ros.ros.worker import Mailbox

WARNING_PERIOD = 5.0  # seconds between two warnings about the calibration
Pair = tuple[Image | CompressedImage, CameraInfo]


class Intake:
    """Subscriptions to images and calibration, and what becomes of their messages before the engine.

    Args:
        node: to subscribe on.
        config: asked anew for each image, so that changes count at once.
        mailbox: of the worker.
        statistics: that every image is counted in.
        camera: knows which calibration is usable.
    """

    def __init__(
        self,
        node: Node,
        config: Callable[[], NodeConfig],
        mailbox: Mailbox[Pair],
        statistics: Statistics,
        camera: Camera,
    ) -> None:
        self.paused = False
        self.camera_info: CameraInfo | None = None
        self._config = config
        self._mailbox = mailbox
        self._statistics = statistics
        self._camera = camera
        self._node = node
        self._size = (0, 0)  # of the images that camera_info is of
        self._held: Image | CompressedImage | None = None  # until its calibration comes
        self._limiter = RateLimiter(config().max_rate)
        self._max_rate = config().max_rate

        kind = CompressedImage if config().image_transport == "compressed" else Image
        (image_topic, info_topic), qos = input_topics(config()), config().image_qos
        self.infos = Input(node, CameraInfo, info_topic, self._on_camera_info, qos, latched=True)
        try:
            self.images = Input(node, kind, image_topic, self._on_image, qos)
        except Exception:
            self.infos.close()
            raise

    def close(self) -> None:
        """Stop listening."""
        self.images.close()
        self.infos.close()
        if self._held is not None:
            self._statistics.count("waiting")

    def _on_camera_info(self, message: CameraInfo) -> None:
        try:
            if self.camera_info is None or not is_same_calibration(message, self.camera_info):
                self._size = self._camera.size(message)
        except MessageError as error:  # the last good one stands
            self._statistics.problems["calibration"] = (time.monotonic(), str(error))
            self._node.get_logger().warning(str(error), throttle_duration_sec=WARNING_PERIOD)
            return
        self.camera_info = message
        # The calibration of an earlier image tells nothing about the one that waits
        if self._held is not None and (self._fits(self._held) or not _is_of_before(message, self._held)):
            self._hand_on(self._held, message)
            self._held = None

    def _on_image(self, message: Image | CompressedImage) -> None:
        self._statistics.count("received")
        self._statistics.last_received = time.monotonic()
        if self.paused or not self._is_due(message):
            self._statistics.count("skipped")
        elif self.camera_info is not None and self._fits(message):
            self._hand_on(message, self.camera_info)
        else:
            # The two topics have no common order: an image may come before the calibration that it needs
            if self._held is not None:
                self._give_up(self._held)
            self._held = message

    def _give_up(self, image: Image | CompressedImage) -> None:
        self._statistics.count("waiting")
        if self.camera_info is None:  # diagnostics tell of that
            return
        sentence = (
            f"An image of {image.width}x{image.height} waited in vain for its calibration; "
            f"{self.infos.topic} is of images of {self._size[0]}x{self._size[1]} (ROI and binning applied)."
        )
        self._statistics.problems["waiting"] = (time.monotonic(), sentence)
        self._node.get_logger().warning(sentence, throttle_duration_sec=WARNING_PERIOD)

    def _fits(self, message: Image | CompressedImage) -> bool:
        return isinstance(message, CompressedImage) or (message.width, message.height) == self._size

    def _is_due(self, message: Image | CompressedImage) -> bool:
        max_rate = self._config().max_rate
        if max_rate != self._max_rate:
            self._max_rate, self._limiter = max_rate, RateLimiter(max_rate)
        return self._limiter.admits(stamp_to_ns(message.header.stamp))

    def _hand_on(self, message: Image | CompressedImage, info: CameraInfo) -> None:
        if self._mailbox.put((message, info)):
            self._statistics.count("dropped")


def input_topics(config: NodeConfig) -> tuple[str, str]:
    """Names of the topics of images and of their calibration, not resolved."""
    compressed = config.image_transport == "compressed"
    return f"{config.image_topic}/compressed" if compressed else config.image_topic, config.camera_info_topic


def says_rectified(topic: str) -> bool:
    """Whether images of a topic with this full name are rectified, by the custom of image_proc."""
    image = topic.removesuffix("/compressed").rpartition("/")[2]
    return re.search(r"(^|_)rect", image) is not None


def _is_of_before(info: CameraInfo, image: Image | CompressedImage) -> bool:
    return 0 < stamp_to_ns(info.header.stamp) < stamp_to_ns(image.header.stamp)
