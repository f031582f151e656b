"""The soak's camera: plays a clip over and over, stamped by a clock that may jump."""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator, Sequence

import cv2
import numpy as np
from rclpy.node import Node
from rclpy.qos import QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import CameraInfo, Image
from std_msgs.msg import Header

from dualrefine_ros.frame import Frame
from dualrefine_ros.ros.conversions import camera_info_message, rgb_image, stamp_from_ns
from dualrefine_ros.tools.demo_player import CAMERA_FRAME

OTHER_SIZE = (200, 5, 4)  # so many images make a block; of so many blocks, this one is of half the size
BEST_EFFORT_SHRINK = 4  # best effort loses nearly every image that does not fit into a socket's buffer


class SoakCamera:
    """Makes images and publishes them.

    Args:
        node: to publish from.
        frames: of the clip.
        qos: of both topics.
    """

    def __init__(self, node: Node, frames: Sequence[Frame], qos: QoSProfile) -> None:
        self.last_stamp_ns = 0  # of the images made
        self._node = node
        self._frames: Iterator[Frame] = itertools.cycle(frames)
        self._offset_ns = 0  # of the stamps from the clock's
        self._made = 0
        self._open(qos)

    @property
    def now_ns(self) -> int:
        """What an image is stamped that is made now."""
        return max(time.time_ns() + self._offset_ns, self.last_stamp_ns + 1)

    def is_heard(self) -> bool:
        """Whether the node listens, as far as this side knows."""
        return bool(self._images.get_subscription_count() and self._infos.get_subscription_count())

    def restart(self, qos: QoSProfile) -> None:
        """Go away and come back."""
        self._node.destroy_publisher(self._images)
        self._node.destroy_publisher(self._infos)
        self._open(qos)

    def jump(self, nanoseconds: int) -> None:
        """Set the clock of the stamps."""
        self._offset_ns += nanoseconds
        self.last_stamp_ns += nanoseconds

    def skip(self, frames: int) -> None:
        """Lose frames of the clip."""
        for _ in range(frames):
            next(self._frames)

    def image(self) -> tuple[Image, CameraInfo]:
        """The next image and its calibration, stamped now."""
        frame, self.last_stamp_ns = next(self._frames), self.now_ns
        header = Header(stamp=stamp_from_ns(self.last_stamp_ns), frame_id=CAMERA_FRAME)
        rgb, intrinsics = np.asarray(frame.image), frame.intrinsics
        length, blocks, which = OTHER_SIZE
        shrink = 2 if (self._made // length) % blocks == which else 1
        if self._best_effort:
            shrink = BEST_EFFORT_SHRINK
        if shrink > 1:
            width, height = intrinsics.width // shrink, intrinsics.height // shrink
            rgb = np.asarray(cv2.resize(rgb, (width, height), interpolation=cv2.INTER_AREA), np.uint8)
            intrinsics = intrinsics.resized(width, height)
        self._made += 1
        return rgb_image(np.ascontiguousarray(rgb, np.uint8), header), camera_info_message(intrinsics, header)

    def publish(self, image: Image, before: Sequence[CameraInfo], after: Sequence[CameraInfo] = ()) -> None:
        """Send an image, and calibration before and after it."""
        self.calibrate(*before)
        self._images.publish(image)
        self.calibrate(*after)

    def calibrate(self, *infos: CameraInfo) -> None:
        """Send calibration alone."""
        for info in infos:
            self._infos.publish(info)

    def _open(self, qos: QoSProfile) -> None:
        self._best_effort = qos.reliability is ReliabilityPolicy.BEST_EFFORT
        self._images = self._node.create_publisher(Image, "image", qos)
        self._infos = self._node.create_publisher(CameraInfo, "camera_info", qos)
