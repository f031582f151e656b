"""The demo's end of the line: a camera that plays a clip over DDS, and a listener that keeps the answers."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
from geometry_msgs.msg import TransformStamped
from nav_msgs.msg import Odometry
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.qos import QoSProfile
from sensor_msgs.msg import CameraInfo, Image
from std_msgs.msg import Header
from tf2_ros import StaticTransformBroadcaster
from tqdm import tqdm

from dualrefine_ros.errors import DualRefineError
from dualrefine_ros.frame import Frame
from dualrefine_ros.geometry.trajectory import Trajectory
from dualrefine_ros.ros.base_odometry import T_BASE_OPTICAL, Matrix
from dualrefine_ros.ros.conversions import (
    camera_info_message,
    matrix_from_pose,
    rgb_image,
    stamp_from_ns,
    stamp_to_ns,
    transform_message,
)

CAMERA_FRAME, BASE_FRAME = "camera_optical", "base_link"
# KITTI's camera looks ahead 1.65 m above the road; the base is the point of the road below it
T_BASE_CAM: Matrix = T_BASE_OPTICAL + np.array([[0, 0, 0, 0], [0, 0, 0, 0], [0, 0, 0, 1.65], [0, 0, 0, 0]])
RELIABLE = QoSProfile(depth=10)
START_PATIENCE = 120.0  # seconds for the node to load its network and to be found
FRAME_PATIENCE = 120.0  # seconds for one answer
REPEAT_AFTER = 15.0  # seconds until an unanswered image is sent again (the node refuses a repetition)
DISCOVERY = 4.0  # seconds in which nodes of the same domain find each other
SPIN = 0.02  # seconds between looks at the node's health


class DemoError(DualRefineError):
    """The demo cannot go on."""


@dataclass
class Recording:
    """What was sent and what came back, by the clip's own stamps in nanoseconds.

    Args:
        sent: seconds on a monotonic clock at which each image was sent.
        poses: T_odom_base (4, 4) of each odometry message.
        latencies: seconds from sending an image to its odometry.
        sheet: a few frames along the clip with their depth (H, W) in metres, in order.
        depth_stamps: of the depth images.
    """

    sent: dict[int, float] = field(default_factory=dict)
    poses: dict[int, Matrix] = field(default_factory=dict)
    latencies: dict[int, float] = field(default_factory=dict)
    sheet: list[tuple[Frame, npt.NDArray[np.float32]]] = field(default_factory=list)
    depth_stamps: set[int] = field(default_factory=set)

    def trajectory(self) -> Trajectory:
        """The recorded poses of the base in the odometry frame."""
        return Trajectory(np.array(list(self.poses.values())), stamps_ns=np.array(list(self.poses)))


class Player:
    """Plays frames and records the answers.

    Args:
        frame_count: of the clip.
        sheet_length: frames to keep with their depth.
        check_node: raises when the node has died; asked while waiting.
    """

    def __init__(self, frame_count: int, sheet_length: int, check_node: Callable[[], None]) -> None:
        self.recording = Recording()
        self._frame_count = frame_count
        self._sheet_length = sheet_length
        self._check_node = check_node
        self._unanswered: dict[int, Frame] = {}  # sent, and no depth came back yet
        self._clock_offset_ns = time.time_ns()  # the clip is played as if it were recorded now

        self._node = Node("demo_player")
        self._executor = SingleThreadedExecutor()
        self._executor.add_node(self._node)
        self._images = self._node.create_publisher(Image, "image", RELIABLE)
        self._camera_infos = self._node.create_publisher(CameraInfo, "camera_info", RELIABLE)
        self._static_transforms = StaticTransformBroadcaster(self._node)
        self._node.create_subscription(Odometry, "odometry", self._on_odometry, RELIABLE)
        self._node.create_subscription(Image, "depth/image", self._on_depth, RELIABLE)

    def close(self) -> None:
        """Leave the ROS graph."""
        self._executor.shutdown()
        self._node.destroy_node()

    def require_silence(self) -> None:
        """Before the demo's own node is started: make sure that no other hears or answers.

        Raises:
            DemoError: there is one.
        """
        end = time.monotonic() + DISCOVERY
        while time.monotonic() < end:
            self._executor.spin_once(timeout_sec=SPIN)
            if self._node.count_subscribers("image") or self._node.count_publishers("odometry"):
                raise DemoError(
                    f"Another node is on {self._node.resolve_topic_name('image')} or "
                    f"{self._node.resolve_topic_name('odometry')} already: stop it, or set ROS_DOMAIN_ID "
                    "to a number of the demo's own."
                )

    def wait_for_node(self) -> None:
        """Until both sides know each other, then say where the camera sits.

        Raises:
            DemoError: that takes too long.
        """
        self._wait(self._is_connected, START_PATIENCE, "vo_node has not come up")
        header = Header(stamp=stamp_from_ns(self._clock_offset_ns), frame_id=BASE_FRAME)
        self._static_transforms.sendTransform(
            TransformStamped(
                header=header, child_frame_id=CAMERA_FRAME, transform=transform_message(T_BASE_CAM)
            )
        )

    def play(self, frames: Iterable[Frame], rate: float | None) -> None:
        """Send every frame: the next one when the last is answered, or at ``rate`` frames a second.

        Raises:
            DemoError: an answer does not come.
        """
        start, frame = time.monotonic(), None
        with tqdm(frames, total=self._frame_count, desc="playing", unit="frame") as progress:
            for number, frame in enumerate(progress, 1):
                self._send(frame)
                if rate is None:
                    self._wait_for_answer(frame)
                else:
                    self._spin_until(start + number / rate)
                if self.recording.latencies:
                    latest = list(self.recording.latencies.values())[-1]
                    progress.set_postfix_str(f"latency {latest:.2f} s", refresh=False)
        if frame is None:
            raise DemoError("The clip holds no image that can be read.")
        self._wait_for_answer(frame)  # the newest image is never dropped

    def _is_connected(self) -> bool:
        to_node = (self._images, self._camera_infos)
        from_node = ("odometry", "depth/image")
        return (
            all(publisher.get_subscription_count() for publisher in to_node)
            and all(self._node.count_publishers(topic) for topic in from_node)
            and self._node.count_subscribers("/tf_static") > 0
        )

    def _send(self, frame: Frame) -> None:
        header = Header(stamp=stamp_from_ns(frame.stamp_ns + self._clock_offset_ns), frame_id=CAMERA_FRAME)
        self._unanswered[frame.stamp_ns] = frame
        self._camera_infos.publish(camera_info_message(frame.intrinsics, header))
        image = rgb_image(frame.image, header)
        self.recording.sent.setdefault(frame.stamp_ns, time.monotonic())
        self._images.publish(image)

    def _wait_for_answer(self, frame: Frame) -> None:
        stamp_ns = frame.stamp_ns

        def answered() -> bool:
            return stamp_ns in self.recording.poses and stamp_ns in self.recording.depth_stamps

        end = time.monotonic() + FRAME_PATIENCE
        while not answered():
            if self._spin_until(time.monotonic() + REPEAT_AFTER, answered):
                return
            if time.monotonic() > end:
                raise DemoError(
                    f"No odometry for the frame at {frame.stamp:.3f} s came within {FRAME_PATIENCE:.0f} s."
                )
            self._send(frame)

    def _wait(self, condition: Callable[[], bool], patience: float, complaint: str) -> None:
        if not self._spin_until(time.monotonic() + patience, condition):
            raise DemoError(f"{complaint} within {patience:.0f} s.")

    def _spin_until(self, end: float, condition: Callable[[], bool] = lambda: False) -> bool:
        """Receive until the condition holds (True) or the time has come (False)."""
        while not condition():
            left = end - time.monotonic()
            if left <= 0:
                return False
            self._check_node()
            self._executor.spin_once(timeout_sec=min(SPIN, left))
        return True

    def _on_odometry(self, message: Odometry) -> None:
        stamp_ns = stamp_to_ns(message.header.stamp) - self._clock_offset_ns
        if stamp_ns not in self.recording.sent or stamp_ns in self.recording.poses:
            return
        self.recording.poses[stamp_ns] = matrix_from_pose(message.pose.pose)
        self.recording.latencies[stamp_ns] = time.monotonic() - self.recording.sent[stamp_ns]

    def _on_depth(self, message: Image) -> None:
        stamp_ns = stamp_to_ns(message.header.stamp) - self._clock_offset_ns
        frame = self._unanswered.get(stamp_ns)
        if frame is None:
            return
        self.recording.depth_stamps.add(stamp_ns)
        self._unanswered = {other: f for other, f in self._unanswered.items() if other > stamp_ns}
        done = list(self.recording.sent).index(stamp_ns) / self._frame_count
        if len(self.recording.sheet) <= done * self._sheet_length:
            depth = np.frombuffer(message.data, "<f4").reshape(message.height, message.width).copy()
            self.recording.sheet.append((frame, depth))
