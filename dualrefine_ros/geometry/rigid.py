"""Rigid motions of one body, in NumPy float64."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt


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
