"""Calibration files of KITTI, whose lines are ``key: numbers``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from dualrefine_ros.errors import DataError, InputError
from dualrefine_ros.frame import Intrinsics
from dualrefine_ros.geometry.text_file import read_text

FloatArray = npt.NDArray[np.float64]


@dataclass(frozen=True)
class KittiCalibration:
    """The lines of a calibration file, read as numbers only when asked for."""

    path: Path
    lines: dict[str, tuple[int, str]]  # key: (line number, text after the colon)

    def matrix(self, key: str, shape: tuple[int, ...]) -> FloatArray:
        """The numbers of ``key`` as a matrix.

        Raises:
            DataError: there is no such key, or not the right number of finite numbers after it.
        """
        if key not in self.lines:
            raise DataError(f"{self.path} has no line '{key}:'.")
        line, text = self.lines[key]
        try:
            numbers = np.array([float(field) for field in text.split()])
        except ValueError as error:
            raise DataError(f"{self.path}, line {line}: {error}.") from None
        if numbers.size != np.prod(shape) or not np.isfinite(numbers).all():
            raise DataError(
                f"{self.path}, line {line}: {np.prod(shape)} finite numbers expected after '{key}:', "
                f"not {numbers.size}: {text.strip()[:60]}"
            )
        return numbers.reshape(shape)

    def rigid_transform(self) -> FloatArray:
        """The (4, 4) transform of a file with ``R:`` and ``T:``."""
        T = np.eye(4)
        T[:3, :3] = self.matrix("R", (3, 3))
        T[:3, 3] = self.matrix("T", (3,))
        return T


def read_kitti_calibration(path: Path) -> KittiCalibration:
    """Read a file of ``key: numbers`` lines.

    Raises:
        DataError: the file is missing or a line has no key.
    """
    lines: dict[str, tuple[int, str]] = {}
    for number, line in enumerate(read_text(path).splitlines(), 1):
        if not line.strip():
            continue
        key, colon, rest = line.partition(":")
        if not colon:
            raise DataError(f"{path}, line {number}: 'key: numbers' expected, not '{line.strip()[:60]}'.")
        lines[key.strip()] = (number, rest)
    return KittiCalibration(path, lines)


def rectified_camera(
    calibration: KittiCalibration, key: str, size: tuple[int, int]
) -> tuple[Intrinsics, FloatArray]:
    """A rectified camera from its projection matrix P = K [I | t], (3, 4), at the line ``key``.

    Args:
        calibration: of the rig.
        key: e.g. "P2".
        size: width and height in pixels of the images P belongs to.

    Returns:
        Intrinsics, and T_cam0_cam (4, 4): rectified cameras are parallel, so a point moves by
        t = K^-1 p4 from camera 0 to this one.

    Raises:
        DataError: there is no such line, or its numbers are no camera's.
    """
    P = calibration.matrix(key, (3, 4))
    try:
        intrinsics = Intrinsics.from_matrix(P, *size)
    except InputError as error:
        raise DataError(f"{calibration.path}, {key}: {error}") from None
    T_cam0_cam = np.eye(4)
    T_cam0_cam[:3, 3] = -np.linalg.solve(intrinsics.matrix, P[:, 3])
    return intrinsics, T_cam0_cam
