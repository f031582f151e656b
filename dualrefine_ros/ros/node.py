"""``vo_node``: images and their calibration in; depth, odometry, path and TF out.

The node decides *when* (the newest image, once calibration and extrinsics are known), the engine *what*.
Images are worked on in a thread of their own, so the executor always has time for everything else.
"""

from __future__ import annotations

import signal
import sys
import threading
import traceback
from collections.abc import Callable, Sequence
from typing import Any

import rclpy
from rcl_interfaces.msg import SetParametersResult
from rclpy.exceptions import NameValidationException
from rclpy.executors import SingleThreadedExecutor
from rclpy.logging import get_logger
from rclpy.node import Node
from rclpy.parameter import Parameter
from rclpy.signals import SignalHandlerOptions
from sensor_msgs.msg import CameraInfo, Image

from dualrefine_ros.errors import ConfigError, DualRefineError, InputError
from dualrefine_ros.frame import NANOSECONDS, Status
from dualrefine_ros.ros.base_odometry import BaseOdometry
from dualrefine_ros.ros.config import NodeConfig
from dualrefine_ros.ros.conversions import frame_from_messages
from dualrefine_ros.ros.engine import Engine, load_engine
from dualrefine_ros.ros.extrinsics import Extrinsics, MissingTransform
from dualrefine_ros.ros.inputs import Input
from dualrefine_ros.ros.outputs import Outputs
from dualrefine_ros.ros.parameters import changed, declare
from dualrefine_ros.ros.worker import Worker

SIGNAL_PERIOD = 0.2  # seconds until a signal is noticed
WARNING_PERIOD = 5.0  # seconds between two warnings about the same thing
EXIT_CRASH, EXIT_CONFIG = 1, 2


class VoNode(Node):
    """Visual odometry as a ROS 2 node.

    Args:
        make_engine: from the parameters; raises a DualRefineError where they cannot be met.
        options: of :class:`rclpy.node.Node`.
    """

    def __init__(self, make_engine: Callable[[NodeConfig], Engine] = load_engine, **options: Any) -> None:
        super().__init__("vo_node", **options)
        self.config = declare(self, NodeConfig)
        self.add_on_set_parameters_callback(self._on_parameters)
        self._outputs = Outputs(self, self.config)
        self._extrinsics = Extrinsics(self, self.config)
        self._engine = make_engine(self.config)
        self._say_what_runs()

        self._base_odometry = BaseOdometry()
        self._last_stamp_ns: int | None = None
        self.processed = 0
        self.refused = 0

        self._camera_info: CameraInfo | None = None
        self._uncalibrated_image: Image | None = None
        self.worker: Worker[tuple[Image, CameraInfo]] = Worker(lambda pair: self._process(*pair))
        qos = self.config.image_qos
        self._inputs = (
            Input(self, CameraInfo, self.config.camera_info_topic, self._on_camera_info, qos),
            Input(self, Image, self.config.image_topic, self._on_image, qos),
        )

    def close(self) -> None:
        """Finish the image in hand and take no other."""
        self.worker.close()
        self.get_logger().info(
            f"{self.processed} images answered, {self.worker.mailbox.dropped} dropped for newer ones, "
            f"{self.refused} refused."
        )

    def _say_what_runs(self) -> None:
        if not self.config.checkpoint:
            self.get_logger().warning(
                f"No checkpoint is given: the network '{self.config.random_network}' runs with RANDOM "
                "WEIGHTS. Its depth and odometry mean nothing; set the parameter checkpoint."
            )
        self.get_logger().info(
            f"Running {self.config.checkpoint or 'random weights'} on {self._engine.device}, "
            f"{self.config.iterations} iterations."
        )

    def _on_parameters(self, parameters: list[Parameter]) -> SetParametersResult:
        try:
            self.config = changed(self.config, parameters)
        except ConfigError as error:
            return SetParametersResult(successful=False, reason=str(error))
        return SetParametersResult(successful=True)

    def _on_camera_info(self, message: CameraInfo) -> None:
        self._camera_info = message
        if self._uncalibrated_image is not None:
            self.worker.mailbox.put((self._uncalibrated_image, message))
            self._uncalibrated_image = None

    def _on_image(self, message: Image) -> None:
        if self._camera_info is not None:
            self.worker.mailbox.put((message, self._camera_info))
            return
        # The two topics have no common order: the first calibration may come after its image
        if self._uncalibrated_image is not None:
            topic = self.resolve_topic_name(self.config.camera_info_topic)
            self.get_logger().warning(
                f"Images arrive, but no calibration on {topic}: nothing is published until it comes.",
                throttle_duration_sec=WARNING_PERIOD,
            )
        self._uncalibrated_image = message

    def _process(self, image: Image, camera_info: CameraInfo) -> None:
        """Answer one image; in the worker's thread."""
        try:
            T_base_cam = self._extrinsics.lookup(image.header)
            frame = frame_from_messages(image, camera_info)
            self._expect_later(frame.stamp_ns)
            self._engine.iterations = self.config.iterations
            estimate = self._engine.process(frame)
        except MissingTransform as error:
            self.get_logger().warning(str(error), throttle_duration_sec=WARNING_PERIOD)
            return
        except DualRefineError as error:
            self.refused += 1
            self.get_logger().warning(f"An image is refused. {error}", throttle_duration_sec=WARNING_PERIOD)
            return
        if estimate.status is Status.DEGRADED:
            self.get_logger().warning(
                "Refining an image failed half-way; its last finite depth and motion are published.",
                throttle_duration_sec=WARNING_PERIOD,
            )
        self._last_stamp_ns = frame.stamp_ns
        motion = self._base_odometry.update(estimate, T_base_cam)
        self._outputs.publish(image.header, camera_info, estimate, motion)
        self.processed += 1

    def _expect_later(self, stamp_ns: int) -> None:
        """Odometry cannot run backwards: it begins anew where the stamps do (a bag that is replayed).

        Raises:
            InputError: the stamp is that of the image before.
        """
        if self._last_stamp_ns is None or stamp_ns > self._last_stamp_ns:
            return
        if stamp_ns == self._last_stamp_ns:
            raise InputError(f"It is stamped {stamp_ns / NANOSECONDS:.9f} s, as the one before.")
        self.get_logger().warning(
            f"The stamps jump back by {(self._last_stamp_ns - stamp_ns) / NANOSECONDS:.3f} s: "
            f"odometry begins anew at the origin of {self.config.odom_frame}."
        )
        self._engine.reset()
        self._base_odometry = BaseOdometry()
        self._outputs.forget_path()
        self._last_stamp_ns = None


def main(args: Sequence[str] | None = None) -> int:
    """Run the node until SIGINT or SIGTERM; returns the exit status (0, 1 after a crash, 2 for bad settings).

    The signal handlers are ours because rclpy's shut the context down at once, and every message that is
    then on its way ends in a traceback.
    """
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.default_int_handler)  # KeyboardInterrupt, while the model is loaded
    try:
        _init(args)
        return spin(VoNode())
    except (DualRefineError, NameValidationException) as error:
        get_logger("vo_node").fatal(" ".join(str(error).split()))
        return EXIT_CONFIG
    except KeyboardInterrupt:
        return 0


def _init(args: Sequence[str] | None) -> None:
    try:
        rclpy.init(args=args if args is None else list(args), signal_handler_options=SignalHandlerOptions.NO)
    except Exception as error:  # rclpy's own class for a bad argument or parameter file has no public name
        raise ConfigError(f"The ROS arguments cannot be used: {error}") from error


def spin(node: VoNode) -> int:
    """Give the node its executor until SIGINT, SIGTERM or an error in the worker; returns the exit status."""
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    executor = SingleThreadedExecutor()
    executor.add_node(node)
    while not stop.is_set() and node.worker.error is None:
        executor.spin_once(timeout_sec=SIGNAL_PERIOD)
    node.close()
    if node.worker.error is not None:
        text = "".join(traceback.format_exception(node.worker.error))
        node.get_logger().fatal(f"Stopped by an error that should not happen; please report it:\n{text}")
    executor.shutdown()
    node.destroy_node()
    rclpy.shutdown()
    return EXIT_CRASH if node.worker.error is not None else 0


if __name__ == "__main__":
    sys.exit(main())
