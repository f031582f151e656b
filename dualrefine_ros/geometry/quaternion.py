"""Unit quaternions (x, y, z, w), the rotations of ROS messages and TUM files, in float64 NumPy."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt


def rotation_from_quaternion(quaternion: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """(..., 4) quaternions x, y, z, w of any length but zero -> (..., 3, 3) rotation matrices."""
    x, y, z, w = np.moveaxis(quaternion / np.linalg.norm(quaternion, axis=-1, keepdims=True), -1, 0)
    rows = [
        [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
        [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
        [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)],
    ]
    return np.stack([np.stack(row, axis=-1) for row in rows], axis=-2)


def quaternion_from_rotation(rotation: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """(..., 3, 3) rotation matrices -> (..., 4) unit quaternions x, y, z, w with w >= 0.

    The dominant eigenvector of a symmetric 4x4 matrix (Bar-Itzhack, "New Method for Extracting the
    Quaternion from a Rotation Matrix", 2000): exact for a rotation, the nearest one for a matrix that
    rounding has left slightly off, and without a special case at 180 degrees.
    """
    shape = rotation.shape[:-2]
    K = (rotation.reshape(*shape, 9) @ _R_TO_K).reshape(*shape, 4, 4)
    quaternion = np.linalg.eigh(K)[1][..., -1]
    return np.where(quaternion[..., 3:] < 0, -quaternion, quaternion)


def _bar_itzhack(R: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """The symmetric matrices K (..., 4, 4), times 3, of (..., 3, 3): linear in R."""
    K = np.empty((*R.shape[:-2], 4, 4))
    K[..., :3, :3] = R + np.swapaxes(R, -1, -2)
    trace = np.trace(R, axis1=-2, axis2=-1)
    K[..., [0, 1, 2], [0, 1, 2]] -= trace[..., None]
    K[..., 3, 0] = K[..., 0, 3] = R[..., 2, 1] - R[..., 1, 2]
    K[..., 3, 1] = K[..., 1, 3] = R[..., 0, 2] - R[..., 2, 0]
    K[..., 3, 2] = K[..., 2, 3] = R[..., 1, 0] - R[..., 0, 1]
    K[..., 3, 3] = trace
    return K


_R_TO_K = _bar_itzhack(np.eye(9).reshape(9, 3, 3)).reshape(9, 16)  # one product instead of a dozen steps
