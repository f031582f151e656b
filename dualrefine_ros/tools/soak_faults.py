"""What the soak does to images and their calibration before they are sent."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import cv2
import numpy as np
from sensor_msgs.msg import CameraInfo, Image

Calibrations = tuple[list[CameraInfo], list[CameraInfo]]  # sent before the image, and after it


def _pixels(image: Image) -> Any:
    """The pixels (H, W, 3) of an rgb8 message, to write to."""
    return np.frombuffer(image.data, np.uint8).reshape(image.height, image.width, 3)


# --- Images that show little or nothing: they are answered nevertheless


def _paint(level: int) -> Callable[[Image, np.random.Generator], None]:
    def paint(image: Image, _: np.random.Generator) -> None:
        _pixels(image)[:] = level

    return paint


def _make_noise(image: Image, random: np.random.Generator) -> None:
    _pixels(image)[:] = random.integers(0, 256, _pixels(image).shape, np.uint8)


def _blur(image: Image, _: np.random.Generator) -> None:
    _pixels(image)[:] = cv2.GaussianBlur(_pixels(image).copy(), (0, 0), 8.0)


POOR_IMAGES: dict[str, Callable[[Image, np.random.Generator], None]] = {
    "black": _paint(0),
    "white": _paint(255),
    "noise": _make_noise,
    "blurred": _blur,
}


# --- Messages that contradict themselves: they are refused


def _cut_short(image: Image) -> None:
    image.data = image.data[: len(image.data) // 2]


def _lie_about_step(image: Image) -> None:
    image.step += 1


def _claim_huge(image: Image) -> None:
    image.width = image.height = 2**31


def _name_unknown_encoding(image: Image) -> None:
    image.encoding = "no such encoding"


BAD_IMAGES: dict[str, Callable[[Image], None]] = {
    "cut short": _cut_short,
    "step that lies": _lie_about_step,
    "huge dimensions": _claim_huge,
    "unknown encoding": _name_unknown_encoding,
}


# --- Calibration that is wrong, late or other than before: the image is a good one


def _nan(info: CameraInfo) -> CameraInfo:
    bad = copy.copy(info)
    bad.k = np.full(9, np.nan)
    return bad


def _of_another_size(info: CameraInfo) -> CameraInfo:
    bad = copy.copy(info)
    bad.width = 7
    return bad


def _zoomed(info: CameraInfo) -> CameraInfo:
    other = copy.copy(info)
    other.k = info.k * np.array([1.2, 1, 1, 1, 1.2, 1, 1, 1, 1])
    other.p = info.p * np.array([1.2, 1, 1, 1, 1, 1.2, 1, 1, 1, 1, 1, 1])
    return other


def _distorted(info: CameraInfo) -> CameraInfo:
    other = copy.copy(info)
    other.d = [-0.2, 0.05, 0.0, 0.0, 0.0]
    return other


CALIBRATION_FAULTS: dict[str, Callable[[CameraInfo], Calibrations]] = {
    "NaN calibration": lambda info: ([_nan(info), info], []),
    "calibration of another size": lambda info: ([_of_another_size(info), info], []),
    "calibration late": lambda info: ([], [info]),
    "calibration missing": lambda info: ([], []),
    "calibration disagrees": lambda info: ([_of_another_size(info)], [info]),
    "focal length changes": lambda info: ([_zoomed(info)], []),
    "distortion appears": lambda info: ([_distorted(info)], []),
}
