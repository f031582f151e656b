"""The soak's robot: a camera that plays good frames and every kind of bad one, and asks things meanwhile."""

from __future__ import annotations

import itertools
import time
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import cv2
import numpy as np
from diagnostic_msgs.msg import DiagnosticArray
from geometry_msgs.msg import PoseWithCovarianceStamped, TransformStamped
from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState
from nav_msgs.msg import Odometry
from rcl_interfaces.msg import Parameter, ParameterType, ParameterValue
from rcl_interfaces.srv import SetParameters
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.qos import QoSProfile
from sensor_msgs.msg import CameraInfo, Image, PointCloud2
from std_msgs.msg import Header
from std_srvs.srv import SetBool, Trigger
from tf2_ros import StaticTransformBroadcaster

from dualrefine_ros.frame import Frame
from dualrefine_ros.ros.conversions import (
    camera_info_message,
    rgb_image,
    stamp_from_ns,
    stamp_to_ns,
    transform_message,
)
from dualrefine_ros.tools.demo_player import BASE_FRAME, CAMERA_FRAME, T_BASE_CAM

QOS = QoSProfile(depth=10)
PATIENCE = 20.0  # seconds for a service; more is called no answer
SETTLING = 5.0  # seconds for the last messages to arrive
GAP, JUMP_BACK_NS = 2.5, 30 * 10**9


class SoakRobot:
    """Sends one frame after the other and keeps count.

    Args:
        frames: of the clip, played over and over.
        random: decides what goes wrong.
    """

    def __init__(self, frames: list[Frame], random: np.random.Generator) -> None:
        self.faults: Counter[str] = Counter()
        self.good: set[int] = set()  # stamps of sound images, which must be answered or counted
        self.answered: set[int] = set()
        self.sent = 0
        self.calls: Counter[str] = Counter()
        self.unanswered_calls: list[str] = []
        self.not_finite = 0  # odometry messages
        self.diagnostics: dict[str, dict[str, str]] = {}

        self._random = random
        self._frames: Iterator[Frame] = itertools.cycle(frames)
        self._offset_ns = 0  # of the stamps from the clock's
        self.node = Node("soak")
        self._executor = SingleThreadedExecutor()
        self._executor.add_node(self.node)
        self._open_camera()
        self._set_pose = self.node.create_publisher(PoseWithCovarianceStamped, "set_pose", QOS)
        self._transforms = StaticTransformBroadcaster(self.node)
        self.node.create_subscription(Odometry, "odometry", self._on_odometry, QOS)
        self.node.create_subscription(Image, "depth/image", lambda _: None, QOS)
        self.node.create_subscription(PointCloud2, "depth/points", lambda _: None, QOS)
        self.node.create_subscription(DiagnosticArray, "/diagnostics", self._on_diagnostics, QOS)
        kinds: dict[str, Any] = {
            "reset": Trigger,
            "save_trajectory": Trigger,
            "pause": SetBool,
            "change_state": ChangeState,
            "set_parameters": SetParameters,
        }
        self._clients: dict[str, Any] = {
            name: self.node.create_client(kind, f"vo_node/{name}") for name, kind in kinds.items()
        }
        # What can go wrong, by its name
        self._image_faults: dict[str, Callable[[Image], bool]] = {
            "black": lambda image: self._paint(image, 0),
            "white": lambda image: self._paint(image, 255),
            "noise": self._make_noise,
            "blurred": self._blur,
            "cut short": self._cut_short,
            "step that lies": self._lie_about_step,
            "huge dimensions": self._claim_huge,
            "unknown encoding": self._name_unknown_encoding,
            "repeated stamp": self._repeat_stamp,
        }
        self._happenings: dict[str, Callable[[], object]] = {
            "gap": lambda: self.spin(GAP),
            "stamps jump back": self._jump_back,
            "publisher restarts": self._restart_camera,
            "NaN calibration": lambda: self._publish_info(self._info(np.nan)),
            "calibration of another size": lambda: self._publish_info(self._info(500.0, width=7)),
            "set_pose": lambda: self._send_pose(1.0),
            "set_pose of NaN": lambda: self._send_pose(np.nan),
            "reset": lambda: self._call("reset"),
            "save_trajectory": lambda: self._call("save_trajectory"),
            "pause and go on": self._pause,
            "deactivate and activate": self._cycle,
            "iterations change": lambda: self._set("iterations", int(self._random.integers(0, 3))),
            "parameter out of range": lambda: self._set("iterations", -1),
            "read-only parameter": lambda: self._set("path_length", 1),
            "frames dropped": lambda: [next(self._frames) for _ in range(5)],
        }
        self._last_stamp_ns = 0

    def close(self) -> None:
        """Leave the ROS graph."""
        self._executor.shutdown()
        self.node.destroy_node()

    def spin(self, seconds: float, until: Callable[[], bool] = lambda: False) -> bool:
        """Listen for a while, or until something is true; whether it is."""
        end = time.monotonic() + seconds
        while not until() and (rest := end - time.monotonic()) > 0:
            self._executor.spin_once(timeout_sec=rest)
        return until()

    def is_heard(self) -> bool:
        """Whether the node listens."""
        return bool(self._images.get_subscription_count() and self._infos.get_subscription_count())

    def say_where_the_camera_sits(self) -> None:
        """To TF."""
        header = Header(stamp=self.node.get_clock().now().to_msg(), frame_id=BASE_FRAME)
        self._transforms.sendTransform(
            TransformStamped(
                header=header, child_frame_id=CAMERA_FRAME, transform=transform_message(T_BASE_CAM)
            )
        )

    def step(self, fault_share: float) -> None:
        """Send a frame; with this probability something goes wrong with it, or before it."""
        names = [*self._image_faults, *self._happenings]
        fault = str(self._random.choice(names)) if self._random.random() < fault_share else ""
        if fault:
            self.faults[fault] += 1
        if fault in self._happenings:
            self._happenings[fault]()
        frame = next(self._frames)
        stamp_ns = max(time.time_ns() + self._offset_ns, self._last_stamp_ns + 1)
        header = Header(stamp=stamp_from_ns(stamp_ns), frame_id=CAMERA_FRAME)
        half = fault == "" and (self.sent // 200) % 5 == 4  # another size for 200 frames of every 1000
        rgb, intrinsics = np.asarray(frame.image), frame.intrinsics
        if half:
            width, height = intrinsics.width // 2, intrinsics.height // 2
            rgb = np.asarray(cv2.resize(rgb, (width, height), interpolation=cv2.INTER_AREA), np.uint8)
            intrinsics = intrinsics.resized(width, height)
        self._publish_info(camera_info_message(intrinsics, header))
        image = rgb_image(np.ascontiguousarray(rgb, np.uint8), header)
        if fault not in self._image_faults or self._image_faults[fault](image):
            self.good.add(stamp_ns)
            self._last_stamp_ns = stamp_ns
        self._images.publish(image)
        self.sent += 1

    # --- what goes wrong with an image; true if it must be answered nevertheless

    def _paint(self, image: Image, level: int) -> bool:
        _pixels(image)[:] = level
        return True

    def _make_noise(self, image: Image) -> bool:
        pixels = _pixels(image)
        pixels[:] = self._random.integers(0, 256, pixels.shape, np.uint8)
        return True

    def _blur(self, image: Image) -> bool:
        pixels = _pixels(image)
        pixels[:] = cv2.GaussianBlur(pixels.copy(), (0, 0), 8.0)
        return True

    def _cut_short(self, image: Image) -> bool:
        image.data = image.data[: len(image.data) // 2]
        return False

    def _lie_about_step(self, image: Image) -> bool:
        image.step += 1
        return False

    def _claim_huge(self, image: Image) -> bool:
        image.width = image.height = 2**31
        return False

    def _name_unknown_encoding(self, image: Image) -> bool:
        image.encoding = "no such encoding"
        return False

    def _repeat_stamp(self, image: Image) -> bool:
        image.header.stamp = stamp_from_ns(self._last_stamp_ns)
        return False

    # --- what goes wrong around it

    def _jump_back(self) -> None:
        self._offset_ns -= JUMP_BACK_NS
        self._last_stamp_ns -= JUMP_BACK_NS

    def _settle(self) -> None:
        """Let arrive what is on its way: the node counts what it has received."""
        sent = str(self.sent)
        self.spin(SETTLING, lambda: self.diagnostics.get("input", {}).get("received") == sent)

    def _meet(self) -> None:
        """Wait until camera and node have found each other, which each of them does in its own time."""
        self.spin(PATIENCE, self.is_heard)
        self.spin(1.0)

    def _open_camera(self) -> None:
        self._images = self.node.create_publisher(Image, "image", QOS)
        self._infos = self.node.create_publisher(CameraInfo, "camera_info", QOS)

    def _restart_camera(self) -> None:
        self._settle()
        self.node.destroy_publisher(self._images)
        self.node.destroy_publisher(self._infos)
        self._open_camera()
        self._meet()

    def _info(self, focal_length: float, width: int = 1242) -> CameraInfo:
        info = CameraInfo(header=Header(frame_id=CAMERA_FRAME), width=width, height=375)
        info.k = [focal_length, 0.0, 600.0, 0.0, focal_length, 180.0, 0.0, 0.0, 1.0]
        return info

    def _publish_info(self, info: CameraInfo) -> None:
        self._infos.publish(info)

    def _send_pose(self, x: float) -> None:
        message = PoseWithCovarianceStamped(header=Header(frame_id="odom"))
        message.pose.pose.position.x = x
        message.pose.pose.orientation.w = 1.0
        self._set_pose.publish(message)

    def _pause(self) -> None:
        self._call("pause", data=True)
        self.spin(0.5)
        self._call("pause", data=False)

    def _cycle(self) -> None:
        self._settle()
        self._call("change_state", transition=Transition(id=Transition.TRANSITION_DEACTIVATE))
        self._call("change_state", transition=Transition(id=Transition.TRANSITION_ACTIVATE))
        self._meet()

    def _set(self, name: str, value: int) -> None:
        number = ParameterValue(type=ParameterType.PARAMETER_INTEGER, integer_value=value)
        self._call("set_parameters", parameters=[Parameter(name=name, value=number)])

    def _call(self, name: str, **fields: object) -> None:
        client = self._clients[name]
        self.calls[name] += 1
        future = client.call_async(client.srv_type.Request(**fields))
        if not self.spin(PATIENCE, future.done):
            self.unanswered_calls.append(name)
            client.remove_pending_request(future)

    # --- what comes back

    def _on_odometry(self, message: Odometry) -> None:
        self.answered.add(stamp_to_ns(message.header.stamp))
        p = message.pose.pose.position
        numbers = np.concatenate([[p.x, p.y, p.z], message.pose.covariance, message.twist.covariance])
        self.not_finite += not np.isfinite(numbers).all()

    def _on_diagnostics(self, message: DiagnosticArray) -> None:
        for status in message.status:
            part = status.name.rpartition(": ")[2]
            self.diagnostics[part] = {pair.key: pair.value for pair in status.values}


def _pixels(image: Image) -> Any:
    """The pixels (H, W, 3) of an rgb8 message, to write to."""
    return np.frombuffer(image.data, np.uint8).reshape(image.height, image.width, 3)
