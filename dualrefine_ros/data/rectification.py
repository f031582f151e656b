"""Calibrated cameras with lens distortion, and their images turned into those of a pinhole camera.

Models and fields are those of ``sensor_msgs/CameraInfo`` and of the YAML files of ROS's camera_calibration.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import yaml

from dualrefine_ros.data.image_encoding import RgbImage
from dualrefine_ros.errors import DataError, InputError
from dualrefine_ros.frame import Intrinsics
from dualrefine_ros.geometry.text_file import read_text

FloatArray = npt.NDArray[np.float64]

# distortion model: numbers of coefficients it may have
_COEFFICIENTS = {"plumb_bob": (4, 5), "rational_polynomial": (8, 12, 14), "equidistant": (4,)}
DISTORTION_MODELS = tuple(_COEFFICIENTS)


@dataclass(frozen=True, eq=False)
class CameraCalibration:
    """A camera as calibrated.

    Args:
        width, height: size in pixels of the images.
        K: (3, 3) camera matrix of the image as it comes from the camera.
        distortion: coefficients, as many as the model has; empty or all zero: no distortion.
        model: one of ``DISTORTION_MODELS``; of no account without distortion.
        R: (3, 3) rotation from the camera to the rectified camera; identity but for stereo cameras.
        P: (3, 4) projection matrix of the rectified camera; zeros where unknown.

    Raises:
        InputError: numbers are missing, not finite, or no camera has them.
    """

    width: int
    height: int
    K: FloatArray
    distortion: FloatArray
    model: str
    R: FloatArray
    P: FloatArray

    def __post_init__(self) -> None:
        Intrinsics.from_matrix(self.K, self.width, self.height)
        if not all(np.isfinite(m).all() for m in (self.distortion, self.R, self.P)):
            raise InputError("The calibration holds a number that is not finite: calibrate the camera.")
        if not self.distortion.any():
            return
        if self.model not in _COEFFICIENTS:
            raise InputError(
                f"Distortion model '{self.model}' is not supported: use {', '.join(DISTORTION_MODELS)}."
            )
        if self.distortion.size not in _COEFFICIENTS[self.model]:
            raise InputError(
                f"Distortion model '{self.model}' has {' or '.join(map(str, _COEFFICIENTS[self.model]))} "
                f"coefficients, not {self.distortion.size}."
            )

    @property
    def is_pinhole(self) -> bool:
        """Whether images need no rectification."""
        return not self.distortion.any() and np.allclose(self.R, np.eye(3))

    @property
    def rectified(self) -> Intrinsics:
        """Intrinsics of the rectified images, which have the same size.

        ``P`` where it is known; else as wide a view as fills the image with pixels everywhere.
        """
        size = (self.width, self.height)
        if self.is_pinhole:
            return Intrinsics.from_matrix(self.K, *size)
        if self.P[0, 0] > 0:
            return Intrinsics.from_matrix(self.P, *size)
        if self.model == "equidistant":
            K = cv2.fisheye.estimateNewCameraMatrixForUndistortRectify(
                self.K, self.distortion, size, np.eye(3), balance=0.0
            )
        else:
            K = cv2.getOptimalNewCameraMatrix(self.K, self.distortion, size, 0)[0]
        return Intrinsics.from_matrix(np.asarray(K, np.float64), *size)

    def of_rectified_images(self) -> CameraCalibration:
        """The calibration of images that somebody has rectified already, by this one."""
        K = self.rectified.matrix
        return replace(self, K=K, distortion=np.zeros(0), R=np.eye(3))


class Rectifier:
    """Image as it comes from the camera -> image of the pinhole camera ``calibration.rectified``."""

    def __init__(self, calibration: CameraCalibration) -> None:
        self.intrinsics = calibration.rectified
        init_maps = (
            cv2.fisheye.initUndistortRectifyMap
            if calibration.model == "equidistant"
            else cv2.initUndistortRectifyMap
        )
        self._maps = init_maps(
            calibration.K,
            calibration.distortion,
            calibration.R,
            self.intrinsics.matrix,
            (calibration.width, calibration.height),
            cv2.CV_16SC2,
        )

    def __call__(self, image: RgbImage) -> RgbImage:
        return np.asarray(cv2.remap(image, *self._maps, cv2.INTER_LINEAR), np.uint8)


def calibration_from_camera_info(info: Any) -> CameraCalibration:
    """The calibration a ``sensor_msgs/CameraInfo`` gives of the images beside it, ROI and binning applied.

    Args:
        info: the message, as rclpy or rosbags holds it.

    Raises:
        InputError: see :class:`CameraCalibration`.
    """
    bin_x, bin_y = max(info.binning_x, 1), max(info.binning_y, 1)
    width, height = info.roi.width or info.width, info.roi.height or info.height
    # full-resolution pixels to those of the image: cut out, then binned
    to_image = np.array(
        [[1 / bin_x, 0, -info.roi.x_offset / bin_x], [0, 1 / bin_y, -info.roi.y_offset / bin_y], [0, 0, 1]]
    )
    R = np.array(info.r, np.float64).reshape(3, 3)
    return CameraCalibration(
        width=width // bin_x,
        height=height // bin_y,
        K=to_image @ np.array(info.k, np.float64).reshape(3, 3),
        distortion=np.array(info.d, np.float64),
        model=info.distortion_model,
        R=R if R.any() else np.eye(3),
        P=to_image @ np.array(info.p, np.float64).reshape(3, 4),
    )


def read_camera_yaml(path: Path) -> CameraCalibration:
    """Read a calibration as ROS's camera_calibration writes it.

    Raises:
        DataError: the file is missing or no YAML, an entry is missing, or the numbers are no camera's.
    """
    try:
        content = yaml.safe_load(read_text(path))
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f", line {mark.line + 1}" if mark else ""
        raise DataError(f"{path}{line}: this is no YAML ({getattr(error, 'problem', error)}).") from None
    if not isinstance(content, dict):
        raise DataError(f"{path} is no camera calibration: entries such as 'camera_matrix:' are expected.")
    try:
        return CameraCalibration(
            width=_integer(path, content, "image_width"),
            height=_integer(path, content, "image_height"),
            K=_matrix(path, content, "camera_matrix", (3, 3)),
            distortion=_matrix(path, content, "distortion_coefficients", (-1,), np.zeros(0)),
            model=str(content.get("distortion_model", "plumb_bob")),
            R=_matrix(path, content, "rectification_matrix", (3, 3), np.eye(3)),
            P=_matrix(path, content, "projection_matrix", (3, 4), np.zeros((3, 4))),
        )
    except InputError as error:
        raise DataError(f"{path}: {error}") from None


def _integer(path: Path, content: dict[str, Any], key: str) -> int:
    value = content.get(key)
    if not isinstance(value, int):
        raise DataError(f"{path}: '{key}' must be a whole number of pixels, not {value}.")
    return value


def _matrix(
    path: Path, content: dict[str, Any], key: str, shape: tuple[int, ...], default: FloatArray | None = None
) -> FloatArray:
    if key not in content and default is not None:
        return default
    entry = content.get(key)
    try:
        return np.array(entry["data"], np.float64).reshape(shape)  # type: ignore[index]
    except (TypeError, KeyError, ValueError):
        size = f"{np.prod(shape)} numbers" if -1 not in shape else "numbers"
        raise DataError(f"{path}: '{key}' must hold 'data' with {size}.") from None
