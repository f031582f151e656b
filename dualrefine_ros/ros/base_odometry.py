"""From the motion of a camera to that of the robot that carries it.

The engine answers in the optical frame of the first image. The robot's odometry frame is its base frame
at the first image (REP-105), so with the extrinsics ``T_base_cam`` (points of the camera to the base):

    T_odom_base = T_base_cam(first image) @ T_world_cam @ T_base_cam(this image)^-1
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from dualrefine_ros.covariance import moved, pose_message_covariance, twist_covariance
from dualrefine_ros.frame import NANOSECONDS, Estimate, Status
from dualrefine_ros.geometry.axes import T_BASE_OPTICAL
from dualrefine_ros.geometry.rigid import inverse, se3_log

Matrix = npt.NDArray[np.float64]
__all__ = ["T_BASE_OPTICAL", "BaseMotion", "BaseOdometry", "Matrix", "inverse", "se3_log"]

# Variance, (m/s)^2 and (rad/s)^2, of a velocity nobody has measured: a filter that fuses it learns nothing
UNKNOWN = 1e3


@dataclass(frozen=True)
class BaseMotion:
    """Where the base is and how it moves.

    Args:
        stamp_ns: of the image.
        T_odom_base: (4, 4) pose of the base in the odometry frame, metres.
        twist: (6,) velocity seen from the base, m/s then rad/s, the mean since the previous image that is not
            lost, or a later one that this image was matched with.
        pose_covariance: (6, 6) in the odometry frame, as ROS means it (x y z roll pitch yaw).
        twist_covariance: (6, 6) in the base.
    """

    stamp_ns: int
    T_odom_base: Matrix
    twist: Matrix
    pose_covariance: Matrix
    twist_covariance: Matrix


class BaseOdometry:
    """Moves the engine's trajectory from the camera to the base."""

    def __init__(self) -> None:
        self._T_odom_world: Matrix | None = None  # the extrinsics at the first image
        self._previous: BaseMotion | None = None
        self._T_base_cam: Matrix | None = None  # the extrinsics at the latest image

    def update(self, estimate: Estimate, T_base_cam: Matrix) -> BaseMotion:
        """The base's motion up to this estimate, given the extrinsics (4, 4) at its image."""
        if self._T_odom_world is None:
            self._T_odom_world = T_base_cam
        self._T_base_cam = T_base_cam
        T_odom_base = self._T_odom_world @ estimate.T_world_cam @ inverse(T_base_cam)
        in_odom = moved(estimate.pose_covariance, self._T_odom_world)
        twist, twist_covariance = self._twist(estimate, T_odom_base, T_base_cam)
        motion = BaseMotion(
            estimate.stamp_ns,
            T_odom_base,
            twist,
            pose_message_covariance(in_odom, T_odom_base),
            twist_covariance,
        )
        if estimate.status is not Status.LOST:  # the next motion counts from where the camera was last seen
            self._previous = motion
        return motion

    def placed(self, T_odom_base: Matrix, covariance: Matrix, T_base_cam: Matrix) -> tuple[Matrix, Matrix]:
        """Where the engine's camera is if the base is at this pose at the latest image.

        Args:
            T_odom_base: (4, 4).
            covariance: (6, 6) of it, as ROS means it.
            T_base_cam: (4, 4), extrinsics that count before the first image.

        Returns:
            T_world_cam (4, 4) and its covariance (6, 6) in the manner of :mod:`dualrefine_ros.covariance`.
        """
        if self._T_odom_world is None:
            self._T_odom_world = T_base_cam
        if self._previous is not None:  # being put elsewhere is no motion
            self._previous = replace(self._previous, T_odom_base=T_odom_base)
        T_world_odom = inverse(self._T_odom_world)
        about_origin = np.eye(4)
        about_origin[:3, 3] = T_odom_base[:3, 3]
        T_world_cam = (
            T_world_odom @ T_odom_base @ (T_base_cam if self._T_base_cam is None else self._T_base_cam)
        )
        return T_world_cam, moved(moved(covariance, about_origin), T_world_odom)

    def _twist(self, estimate: Estimate, T_odom_base: Matrix, T_base_cam: Matrix) -> tuple[Matrix, Matrix]:
        """Mean velocity (6,) and its covariance (6, 6); see :class:`BaseMotion`."""
        unknown = UNKNOWN * np.eye(6)
        previous = self._previous
        if previous is None or estimate.stamp_ns <= previous.stamp_ns:  # the stamps went back
            return np.zeros(6), unknown
        # Lost for long, the engine begins anew with a lost frame: nobody knows the motion before that one. Of
        # an earlier one (while the camera stood, or for min_flow) only what is new since the last image
        # counts.
        since_ns = max(previous.stamp_ns, estimate.prev_stamp_ns or 0)
        dt = (estimate.stamp_ns - since_ns) / NANOSECONDS
        xi = se3_log(inverse(previous.T_odom_base) @ T_odom_base)
        if estimate.covariance is None:
            return xi / dt, unknown
        return xi / dt, twist_covariance(moved(estimate.covariance, T_base_cam), dt)
