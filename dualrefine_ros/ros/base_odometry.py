"""From the motion of a camera to that of the robot that carries it.

The engine answers in the optical frame of the first image. The robot's odometry frame is its base frame
at the first image (REP-105), so with the extrinsics ``T_base_cam`` (points of the camera to the base):

    T_odom_base = T_base_cam(first image) @ T_world_cam @ T_base_cam(this image)^-1
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from dualrefine_ros.frame import NANOSECONDS, Estimate
from dualrefine_ros.geometry.quaternion import quaternion_from_rotation

Matrix = npt.NDArray[np.float64]

# A camera at the base's origin that looks along its x axis: REP-103's rotation of the optical axes
# (x right, y down, z forward) into the body's (x forward, y left, z up).
T_BASE_OPTICAL: Matrix = np.array(
    [[0.0, 0.0, 1.0, 0.0], [-1.0, 0.0, 0.0, 0.0], [0.0, -1.0, 0.0, 0.0], [0.0, 0.0, 0.0, 1.0]]
)


@dataclass(frozen=True)
class BaseMotion:
    """Where the base is and how it moves.

    Args:
        stamp_ns: of the image.
        T_odom_base: (4, 4) pose of the base in the odometry frame, metres.
        twist: (6,) velocity seen from the base, m/s then rad/s, the mean since the previous image.
    """

    stamp_ns: int
    T_odom_base: Matrix
    twist: Matrix


class BaseOdometry:
    """Moves the engine's trajectory from the camera to the base."""

    def __init__(self) -> None:
        self._T_odom_world: Matrix | None = None  # the extrinsics at the first image
        self._previous: BaseMotion | None = None

    def update(self, estimate: Estimate, T_base_cam: Matrix) -> BaseMotion:
        """The base's motion up to this estimate, given the extrinsics (4, 4) at its image."""
        if self._T_odom_world is None:
            self._T_odom_world = T_base_cam
        T_odom_base = self._T_odom_world @ estimate.T_world_cam @ np.linalg.inv(T_base_cam)
        self._previous = BaseMotion(estimate.stamp_ns, T_odom_base, self._twist(estimate, T_odom_base))
        return self._previous

    def _twist(self, estimate: Estimate, T_odom_base: Matrix) -> Matrix:
        if self._previous is None:
            return np.zeros(6)
        dt = (estimate.stamp_ns - self._previous.stamp_ns) / NANOSECONDS
        return se3_log(np.linalg.inv(self._previous.T_odom_base) @ T_odom_base) / dt


def se3_log(T: Matrix) -> Matrix:
    """The twist (6,), translation then rotation, whose exponential is the rigid motion T (4, 4).

    The inverse of Murray, Li, Sastry, "A Mathematical Introduction to Robotic Manipulation", eq. 2.36.
    """
    x, y, z, w = quaternion_from_rotation(T[:3, :3])
    sine = np.sqrt(x * x + y * y + z * z)  # of half the angle
    angle = 2 * np.arctan2(sine, w)
    rotation = np.array([x, y, z]) * (angle / sine if sine > 0 else 2.0)
    W = np.array(
        [
            [0.0, -rotation[2], rotation[1]],
            [rotation[2], 0.0, -rotation[0]],
            [-rotation[1], rotation[0], 0.0],
        ]
    )
    # (1 - (angle / 2) / tan(angle / 2)) / angle^2, and its limit
    curvature = (1 - angle / 2 * w / sine) / angle**2 if angle > 1e-4 else 1 / 12
    inverse_V = np.eye(3) - W / 2 + curvature * (W @ W)
    return np.concatenate([inverse_V @ T[:3, 3], rotation])
