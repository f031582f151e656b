"""A robot around the node: gives it images, calibration and TF over DDS, and keeps what it says."""

from __future__ import annotations

import threading
import time
from collections import defaultdict
from collections.abc import Callable
from typing import Any

import numpy as np
from diagnostic_msgs.msg import DiagnosticStatus
from geometry_msgs.msg import Quaternion, Transform, TransformStamped, Vector3
from nav_msgs.msg import Odometry, Path
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import CameraInfo, Image
from std_msgs.msg import Header
from tf2_msgs.msg import TFMessage

from dualrefine_ros.frame import Estimate, Frame, Status
from dualrefine_ros.odometry import OdometryConfig
from dualrefine_ros.ros.conversions import bytes_field, stamp_from_ns

WIDTH, HEIGHT = 64, 48
FOCAL_LENGTH = 50.0
SECOND = 10**9
PATIENCE = 60.0  # seconds until a test gives up; nothing is asserted about time
# The camera sits 0.3 m ahead of the base and 1.2 m above it, and looks along the base's x axis.
CAMERA_ON_BASE = Transform(
    translation=Vector3(x=0.3, y=0.0, z=1.2), rotation=Quaternion(x=-0.5, y=0.5, z=-0.5, w=0.5)
)


def exponential(xi: np.ndarray) -> np.ndarray:
    """The motion (4, 4) of a twist, by the series of the matrix exponential: slow, obvious."""
    v, (a, b, c) = xi[:3], xi[3:]
    generator = np.zeros((4, 4))
    generator[:3] = np.column_stack([[0, c, -b], [-c, 0, a], [b, -a, 0], v])
    T, term = np.eye(4), np.eye(4)
    for order in range(1, 60):
        term = term @ generator / order
        T = T + term
    return T


class Robot:
    """A camera and a listener in one node, with an executor of its own."""

    def __init__(
        self,
        namespace: str = "",
        reliability: ReliabilityPolicy = ReliabilityPolicy.RELIABLE,
        size: tuple[int, int] = (WIDTH, HEIGHT),
    ) -> None:
        self.width, self.height = size
        self.node = Node("robot", namespace=namespace)
        self.executor = SingleThreadedExecutor()
        self.executor.add_node(self.node)
        latched = QoSProfile(depth=20, durability=DurabilityPolicy.TRANSIENT_LOCAL)
        camera = QoSProfile(depth=20, reliability=reliability)
        self.images = self.node.create_publisher(Image, "image", camera)
        self.camera_infos = self.node.create_publisher(CameraInfo, "camera_info", camera)
        self._static_transforms = self.node.create_publisher(TFMessage, "/tf_static", latched)
        self.heard: dict[str, list[Any]] = defaultdict(list)
        for topic, kind in (
            ("odometry", Odometry),
            ("path", Path),
            ("depth/image", Image),
            ("depth/camera_info", CameraInfo),
            ("status", DiagnosticStatus),
            ("/tf", TFMessage),
        ):
            self.listen(topic, kind)

    def listen(self, topic: str, kind: type) -> None:
        """Keep what is said on one more topic."""
        self.node.create_subscription(kind, topic, self.heard[topic].append, QoSProfile(depth=20))

    def call(self, name: str, kind: type, **fields: object) -> Any:
        """The answer of a service."""
        client = self.node.create_client(kind, name)
        self.wait(client.service_is_ready, f"the service {name}")
        future = client.call_async(kind.Request(**fields))
        self.wait(future.done, f"an answer of {name}")
        self.node.destroy_client(client)
        return future.result()

    def close(self) -> None:
        self.executor.shutdown()
        self.node.destroy_node()

    def wait(self, condition: Callable[[], Any], what: str) -> None:
        """Spin until something is true."""
        assert self.spin_until(condition, PATIENCE), f"waited in vain for {what}"

    def spin_until(self, condition: Callable[[], Any], seconds: float) -> bool:
        """Spin until something is true, or for some time where it never is; whether it is."""
        end = time.monotonic() + seconds
        while not condition() and time.monotonic() < end:
            self.executor.spin_once(timeout_sec=0.05)
        return bool(condition())

    def spin_for(self, seconds: float) -> None:
        """Spin for a while, where nothing is expected to happen."""
        self.spin_until(lambda: False, seconds)

    def wait_for_node(self) -> None:
        """Until both sides have found each other on every topic."""
        inputs = (self.images, self.camera_infos)
        self.wait(lambda: all(p.get_subscription_count() for p in inputs), "the node's subscriptions")
        self.wait(lambda: all(self.node.count_publishers(t) for t in list(self.heard)), "its publishers")

    def publish_extrinsics(self, camera_frame: str = "camera", base_frame: str = "base_link") -> None:
        stamped = TransformStamped(
            header=Header(frame_id=base_frame), child_frame_id=camera_frame, transform=CAMERA_ON_BASE
        )
        self._static_transforms.publish(TFMessage(transforms=[stamped]))

    def publish_camera_info(self, width: int | None = None) -> CameraInfo:
        info = CameraInfo(
            header=Header(frame_id="camera"),
            width=width or self.width,
            height=self.height,
            distortion_model="plumb_bob",
        )
        info.k = [FOCAL_LENGTH, 0.0, 31.0, 0.0, FOCAL_LENGTH, 23.0, 0.0, 0.0, 1.0]
        info.d = [0.0] * 5
        self.camera_infos.publish(info)
        return info

    def publish_image(self, stamp_ns: int, encoding: str = "bgr8") -> Image:
        """An image of noise, different for each stamp, its rows padded by 8 bytes."""
        step = 3 * self.width + 8
        noise = np.random.default_rng(stamp_ns % 2**32).integers(0, 256, (self.height, step), np.uint8)
        message = Image(
            header=Header(stamp=stamp_from_ns(stamp_ns), frame_id="camera"),
            height=self.height,
            width=self.width,
            encoding=encoding,
            step=step,
            data=bytes_field(noise),
        )
        self.images.publish(message)
        return message

    def drive(self, stamps: list[int]) -> None:
        """Send one image after the other, each when the one before has been answered.

        An image that comes before the extrinsics is left unanswered, so it is sent again; a repetition of
        one that has been answered the node refuses.
        """
        for stamp in stamps:
            end = time.monotonic() + PATIENCE
            while stamp not in self.odometry_stamps():
                assert time.monotonic() < end, f"waited in vain for odometry of {stamp}"
                self.publish_image(stamp)
                self.spin_until(lambda stamp=stamp: stamp in self.odometry_stamps(), 5.0)

    def odometry_stamps(self) -> list[int]:
        return [m.header.stamp.sec * 10**9 + m.header.stamp.nanosec for m in self.heard["odometry"]]


class ObedientEngine:
    """Moves by one step (a metre ahead) with each frame; can be held, and made to fail on a stamp."""

    device = "cpu"

    def __init__(self) -> None:
        self.config = OdometryConfig()
        self.resets = self.releases = 0
        self.poses_set: list[tuple[np.ndarray, np.ndarray]] = []
        self.speeds: list[tuple[int, float]] = []
        self.covariance: np.ndarray | None = np.eye(6) * 1e-4
        self.T_start = np.eye(4)
        self.go = threading.Event()
        self.go.set()
        self.seen: list[int] = []  # stamps, in the order of arrival
        self.iterations_seen: list[int] = []
        self.failures: dict[int, Exception] = {}
        self.status = Status.TRACKING
        self.T_step = np.eye(4)
        self.T_step[2, 3] = 1.0
        self._frames = 0

    def process(self, frame: Frame) -> Estimate:
        self.seen.append(frame.stamp_ns)
        self.iterations_seen.append(self.config.iterations)
        assert self.go.wait(60)
        if frame.stamp_ns in self.failures:
            raise self.failures[frame.stamp_ns]
        T_world_cam = self.T_start @ np.linalg.matrix_power(self.T_step, self._frames)
        self._frames += 1
        self.frame = frame
        return Estimate(
            frame.stamp_ns,
            self.status,
            np.full(frame.image.shape[:2], 2.0, np.float32),
            T_world_cam,
            confidence=np.full(frame.image.shape[:2], 0.5, np.float32),
            cause="As told." if self.status in (Status.LOST, Status.DEGRADED) else "",
            covariance=self.covariance,
            pose_covariance=np.eye(6) * 1e-2,
            timings={"encode": 0.002},
        )

    def reset(self) -> None:
        self._frames = 0
        self.T_start = np.eye(4)
        self.resets += 1

    def new_pair(self) -> None:
        pass

    def release(self) -> None:
        self.releases += 1

    def set_pose(self, T_world_cam: np.ndarray, covariance: np.ndarray | None = None) -> None:
        self.poses_set.append((T_world_cam, covariance))
        self.T_start, self._frames = T_world_cam, 1

    def set_extrinsics(self, T_base_cam: np.ndarray) -> None:
        self.T_base_cam = T_base_cam

    def add_speed(self, stamp_ns: int, metres_per_second: float) -> None:
        self.speeds.append((stamp_ns, metres_per_second))

    def reconfigure(self, config: OdometryConfig) -> None:
        self.config = config
