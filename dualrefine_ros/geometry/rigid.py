"""Rigid motions of one body, in NumPy float64."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from dualrefine_ros.geometry.quaternion import quaternion_from_rotation


def nearest_rigid(T: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """The (4, 4) transform whose rotation is the closest proper one to T's (orthogonal Procrustes).

    Undoes the drift from rotation matrices that long chains of products collect.
    """
    U, _, Vt = np.linalg.svd(T[:3, :3])
    rigid = np.eye(4)
    rigid[:3, :3] = U @ np.diag([1.0, 1.0, np.linalg.det(U @ Vt)]) @ Vt
    rigid[:3, 3] = T[:3, 3]
    return rigid


def rotation_angle(T: npt.NDArray[np.float64]) -> float:
    """The angle in radians of a motion (4, 4); by the arctangent, as the arccosine is blind near 0."""
    R = T[:3, :3]
    sine = math.sqrt((R[2, 1] - R[1, 2]) ** 2 + (R[0, 2] - R[2, 0]) ** 2 + (R[1, 0] - R[0, 1]) ** 2)
    return math.atan2(sine, float(np.trace(R)) - 1)


def inverse(T: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """The inverse (4, 4) of a rigid motion."""
    T_inverse = np.eye(4)
    T_inverse[:3, :3] = T[:3, :3].T
    T_inverse[:3, 3] = -T[:3, :3].T @ T[:3, 3]
    return T_inverse


def se3_log(T: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
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
