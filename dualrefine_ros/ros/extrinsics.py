"""Where the camera sits on the robot: a question to TF."""

from __future__ import annotations

from rclpy.duration import Duration
from rclpy.node import Node
from rclpy.time import Time
from std_msgs.msg import Header
from tf2_ros import Buffer, TransformException, TransformListener

from dualrefine_ros.errors import DualRefineError
from dualrefine_ros.ros.base_odometry import T_BASE_OPTICAL, Matrix
from dualrefine_ros.ros.config import NodeConfig
from dualrefine_ros.ros.conversions import matrix_from_transform

TF_PATIENCE = Duration(seconds=0.1)  # a moving joint's transform may come a little after the image


class MissingTransform(DualRefineError):
    """TF does not know where the camera sits."""


class Extrinsics:
    """Answers with T_base_cam; blocks for a moment at most, so ask beside the executor's thread."""

    def __init__(self, node: Node, config: NodeConfig) -> None:
        self._config = config
        if not config.assume_optical_at_base:
            self._buffer = Buffer()
            self._listener = TransformListener(self._buffer, node)

    def lookup(self, header: Header) -> Matrix:
        """T_base_cam (4, 4) of the camera that took the image with this header, at its time.

        Raises:
            MissingTransform: TF does not know it (yet).
        """
        base_frame = self._config.base_frame
        if self._config.assume_optical_at_base:
            return T_BASE_OPTICAL
        camera_frame = self._config.camera_frame or header.frame_id
        if not camera_frame:
            raise MissingTransform(
                "The images name no frame (their frame_id is empty): set the parameter camera_frame."
            )
        try:
            stamped = self._buffer.lookup_transform(
                base_frame, camera_frame, Time.from_msg(header.stamp), TF_PATIENCE
            )
        except TransformException as error:
            raise MissingTransform(
                f"No transform from '{camera_frame}' to '{base_frame}', so nothing is published: give it to "
                "TF (robot_state_publisher, static_transform_publisher) or set the parameter "
                f"assume_optical_at_base. TF says: {error}"
            ) from error
        return matrix_from_transform(stamped.transform)
