"""TF: where the camera sits on the robot, and whether somebody else moves the robot's frame already."""

from __future__ import annotations

from collections import deque

from geometry_msgs.msg import TransformStamped
from rclpy.duration import Duration
from rclpy.node import Node
from rclpy.time import Time
from std_msgs.msg import Header
from tf2_ros import Buffer, TransformException, TransformListener

from dualrefine_ros.errors import DualRefineError
from dualrefine_ros.ros.base_odometry import T_BASE_OPTICAL, Matrix
from dualrefine_ros.ros.config import NodeConfig
from dualrefine_ros.ros.conversions import matrix_from_transform, stamp_to_ns

TF_PATIENCE = Duration(seconds=0.1)  # a moving joint's transform may come a little after the image
_REMEMBERED = 1000  # own transforms that are recognised when they come back


class MissingTransform(DualRefineError):
    """TF does not know where the camera sits."""


class WatchingBuffer(Buffer):
    """A TF buffer that remembers who else moves some of the frames."""

    def __init__(self, frames: tuple[str, ...]) -> None:
        super().__init__()
        self._parents: dict[str, dict[str, None]] = {frame: {} for frame in frames}  # in order, of strangers
        self._static: dict[str, TransformStamped] = {}
        self._own: deque[tuple[str, str, int]] = deque(maxlen=_REMEMBERED)

    def sending(self, transform: TransformStamped) -> None:
        """This transform is ours."""
        self._own.append(_key(transform))

    def rival(self, child: str) -> str | None:
        """The parent that somebody else gives to this frame; None where nobody does."""
        return next(iter(self._parents.get(child, ())), None)

    def set_transform(self, transform: TransformStamped, authority: str) -> None:
        """As the real one; but what comes back of our own is not kept, for nobody here asks for it."""
        if _key(transform) not in self._own:
            self._watch(transform)
            super().set_transform(transform, authority)

    def set_transform_static(self, transform: TransformStamped, authority: str) -> None:
        """As the real one."""
        self._watch(transform)
        self._static[transform.child_frame_id] = transform
        super().set_transform_static(transform, authority)

    def forget_moving(self) -> None:
        """Forget every transform but the static ones."""
        self.clear()
        for transform in list(self._static.values()):
            super().set_transform_static(transform, "kept")

    def _watch(self, transform: TransformStamped) -> None:
        child = transform.child_frame_id.lstrip("/")
        if child in self._parents:
            self._parents[child][transform.header.frame_id.lstrip("/")] = None


def _key(transform: TransformStamped) -> tuple[str, str, int]:
    stamp_ns = stamp_to_ns(transform.header.stamp)
    return transform.header.frame_id.lstrip("/"), transform.child_frame_id.lstrip("/"), stamp_ns


class Extrinsics:
    """Answers with T_base_cam; blocks for a moment at most, so ask beside the executor's thread."""

    def __init__(self, node: Node, config: NodeConfig) -> None:
        self._config = config
        self.buffer = WatchingBuffer((config.base_frame, config.odom_frame))
        self._listener = TransformListener(self.buffer, node)

    def close(self) -> None:
        """Stop listening."""
        self._listener.unregister()

    def forget(self) -> None:
        """Forget what moves, as the stamps went back: TF would refuse anything older than it knows."""
        self.buffer.forget_moving()

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
            stamped = self.buffer.lookup_transform(
                base_frame, camera_frame, Time.from_msg(header.stamp), TF_PATIENCE
            )
        except TransformException as error:
            raise MissingTransform(
                f"No transform from '{camera_frame}' to '{base_frame}', so nothing is published: give it to "
                "TF (robot_state_publisher, static_transform_publisher) or set the parameter "
                f"assume_optical_at_base. TF says: {error}"
            ) from error
        return matrix_from_transform(stamped.transform)
