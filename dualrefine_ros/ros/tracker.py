"""The walk of one image through the node, in the worker's thread: message, frame, engine, base, messages."""

from __future__ import annotations

import math
import re
import threading
import time
from collections import deque
from collections.abc import Callable

import numpy as np
from rclpy.node import Node
from sensor_msgs.msg import CameraInfo, CompressedImage, Image

from dualrefine_ros.errors import DeviceError, DualRefineError, InputError
from dualrefine_ros.frame import NANOSECONDS, Estimate, Status
from dualrefine_ros.geometry.trajectory import Trajectory
from dualrefine_ros.ros.base_odometry import BaseOdometry, Matrix
from dualrefine_ros.ros.camera import Camera
from dualrefine_ros.ros.config import NodeConfig
from dualrefine_ros.ros.conversions import stamp_to_ns
from dualrefine_ros.ros.diagnostics import frame_status, trouble_status
from dualrefine_ros.ros.engine import Engine, engine_config
from dualrefine_ros.ros.extrinsics import Extrinsics, MissingTransform
from dualrefine_ros.ros.outputs import Outputs
from dualrefine_ros.ros.statistics import Statistics

WARNING_PERIOD = 5.0  # seconds between two warnings about the same thing
REMEMBERED_WARNINGS = 100
LIKELY_LATENCY = 60.0  # seconds; more is no latency but another clock


class Tracker:
    """Answers images; what is asked of it from other threads happens before the next one.

    Args:
        node: for its log and clock.
        config: asked anew for each image, so that changes count at the next one.
        engine, camera, extrinsics, outputs, statistics: that it works with.
    """

    def __init__(
        self,
        node: Node,
        config: Callable[[], NodeConfig],
        engine: Engine,
        camera: Camera,
        extrinsics: Extrinsics,
        outputs: Outputs,
        statistics: Statistics,
    ) -> None:
        self._node = node
        self._logger = node.get_logger()
        self._config = config
        self._applied = config()
        self._engine = engine
        self._camera = camera
        self._extrinsics = extrinsics
        self._outputs = outputs
        self._statistics = statistics
        self._base_odometry = BaseOdometry()
        self._last_stamp_ns: int | None = None
        self._seen_ns: int | None = None  # also of images without an answer
        self._warned: dict[str, float] = {}  # what about, and when
        self._requests: dict[str, Callable[[Matrix], None]] = {}  # in this order, at the next image
        self._requests_lock = threading.Lock()
        self._poses: deque[tuple[int, Matrix]] = deque(maxlen=config().trajectory_length)

    # --- asked by other threads

    def reset(self) -> None:
        """Begin anew at the origin of the odometry frame, with the next image."""
        with self._requests_lock:  # nothing that was asked before outlives it
            self._requests = {"reset": lambda _: self._reset()}

    def set_pose(self, T_odom_base: Matrix, covariance: Matrix) -> None:
        """Go on from this pose (4, 4) and covariance (6, 6; as in ROS messages) with the next image."""
        with self._requests_lock:  # in the place of an earlier one
            self._requests["pose"] = lambda T_base_cam: self._set_pose(T_odom_base, covariance, T_base_cam)

    def trajectory(self) -> Trajectory | None:
        """The poses of the base since the beginning, or since the stamps last went back; None without any."""
        poses = list(self._poses)
        if not poses:
            return None
        stamps, matrices = zip(*poses, strict=True)
        return Trajectory(np.array(matrices), stamps_ns=np.array(stamps, np.int64))

    # --- the worker's thread

    def process(self, image: Image | CompressedImage, info: CameraInfo) -> None:
        """Answer one image, or count and say why not."""
        config, stamp_ns = self._config(), stamp_to_ns(image.header.stamp)
        try:
            self._see_stamp(stamp_ns)
            T_base_cam = self._extrinsics.lookup(image.header)
            frame = self._camera.frame(image, info)
            self._expect_new(frame.stamp_ns)
            self._prepare(config, T_base_cam)
            started = time.perf_counter()
            estimate = self._engine.process(frame)
            engine_seconds = time.perf_counter() - started
        except MissingTransform as error:
            self._trouble(stamp_ns, "waiting", str(error))
            return
        except DeviceError as error:
            self._trouble(stamp_ns, "failed", str(error))
            return
        except DualRefineError as error:
            self._trouble(stamp_ns, "refused", f"An image is refused. {error}")
            return
        self._notice_jump(frame.stamp_ns)
        motion = self._base_odometry.update(estimate, T_base_cam)
        self._poses.append((frame.stamp_ns, motion.T_odom_base))
        self._outputs.publish_motion(image.header, motion, config)
        self._outputs.publish_depth(image.header, frame, estimate, self._camera, config)
        if withheld := self._outputs.publish_transform(image.header, motion.T_odom_base, config):
            self._statistics.problems["tf"] = (time.monotonic(), withheld)
        self._account(frame.stamp_ns, estimate, engine_seconds)

    def _see_stamp(self, stamp_ns: int) -> None:
        """Know the time; where it went back, TF begins anew.

        Raises:
            InputError: it is before 1970, which no clock of ROS can be.
        """
        if stamp_ns < 0:
            raise InputError(
                f"It is stamped {stamp_ns / NANOSECONDS:.9f} s, before 1970: mend its driver's clock."
            )
        if self._seen_ns is not None and stamp_ns < self._seen_ns:
            self._extrinsics.forget()
        self._seen_ns = stamp_ns

    def _prepare(self, config: NodeConfig, T_base_cam: Matrix) -> None:
        if config != self._applied:
            self._engine.reconfigure(engine_config(config))
            self._applied = config
        self._engine.set_extrinsics(T_base_cam)
        with self._requests_lock:
            requests, self._requests = self._requests, {}
        for request in requests.values():
            request(T_base_cam)

    def _expect_new(self, stamp_ns: int) -> None:
        """TF and filters take each stamp once.

        Raises:
            InputError: the stamp is that of the image before.
        """
        if stamp_ns == self._last_stamp_ns:
            raise InputError(f"It is stamped {stamp_ns / NANOSECONDS:.9f} s, as the one before.")

    def _notice_jump(self, stamp_ns: int) -> None:
        last = self._last_stamp_ns
        self._last_stamp_ns = stamp_ns
        if last is None or stamp_ns > last:
            return
        self._logger.warning(
            f"The stamps jump back by {(last - stamp_ns) / NANOSECONDS:.3f} s (a bag that starts over?): "
            "odometry goes on from the last pose, path and trajectory begin anew."
        )
        self._outputs.forget_path()
        self._poses.clear()

    def _account(self, stamp_ns: int, estimate: Estimate, engine_seconds: float) -> None:
        latency = (self._node.get_clock().now().nanoseconds - stamp_ns) / NANOSECONDS
        if not 0 <= latency < LIKELY_LATENCY:
            latency = float("nan")
        statistics = self._statistics
        statistics.stages = estimate.timings
        statistics.iterations = int(np.isfinite(estimate.pose_update_norms).sum())
        statistics.scale, statistics.scale_confidence = estimate.scale, estimate.scale_confidence
        name = self._node.get_fully_qualified_name()
        self._outputs.publish_status(frame_status(name, estimate, latency, engine_seconds))
        if estimate.status in (Status.LOST, Status.DEGRADED):
            statistics.problems[estimate.status.value] = (time.monotonic(), estimate.cause)
            self._logger.warning(
                f"{estimate.status.value.capitalize()}. {estimate.cause}",
                throttle_duration_sec=WARNING_PERIOD,
            )
        statistics.count_answer(estimate.status.value, latency)

    def _trouble(self, stamp_ns: int, end: str, sentence: str) -> None:
        name = self._node.get_fully_qualified_name()
        self._outputs.publish_status(trouble_status(name, stamp_ns, end, sentence))
        self._statistics.problems[end] = (time.monotonic(), sentence)
        self._statistics.count(end)
        self._warn(sentence)

    def _warn(self, sentence: str) -> None:
        """Log it, unless the same was said a moment ago with other numbers."""
        about, now = re.sub(r"\d+", "", sentence), time.monotonic()
        if now - self._warned.get(about, -math.inf) < WARNING_PERIOD:
            return
        if len(self._warned) > REMEMBERED_WARNINGS:
            self._warned.clear()
        self._warned[about] = now
        self._logger.warning(sentence)

    def _reset(self) -> None:
        self._engine.reset()
        self._base_odometry = BaseOdometry()
        self._outputs.forget_path()
        self._poses.clear()
        self._last_stamp_ns = None

    def _set_pose(self, T_odom_base: Matrix, covariance: Matrix, T_base_cam: Matrix) -> None:
        self._engine.set_pose(*self._base_odometry.placed(T_odom_base, covariance, T_base_cam))
