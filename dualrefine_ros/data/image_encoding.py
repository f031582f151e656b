"""Buffers of image messages to RGB pixels, without ROS: the reader of bags and the node both decode here.

Encodings are named as in ``sensor_msgs/image_encodings.hpp``. The result is always a fresh, contiguous
(H, W, 3) uint8 RGB array, so nothing a driver does to its message afterwards can reach a frame.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from dualrefine_ros.errors import MessageError

RgbImage = npt.NDArray[np.uint8]

MAX_SIDE = 32767  # pixels; OpenCV cannot warp a larger image


def _gray16_to_rgb(gray: npt.NDArray[Any]) -> npt.NDArray[Any]:
    # 65535 / 255 = 257: full scale to full scale, rounded, as cv_bridge converts mono16 to mono8
    return cv2.cvtColor(((gray.astype(np.uint32) + 128) // 257).astype(np.uint8), cv2.COLOR_GRAY2RGB)


def _by_opencv(code: int) -> Callable[[npt.NDArray[Any]], npt.NDArray[Any]]:
    return lambda pixels: cv2.cvtColor(pixels, code)


# encoding: (channels, bytes per channel, (H, W[, channels]) contiguous -> (H, W, 3) RGB).
# OpenCV names a Bayer pattern by the second row's second and third pixels, ROS by the first row's first two.
_DECODERS: dict[str, tuple[int, int, Callable[[npt.NDArray[Any]], npt.NDArray[Any]]]] = {
    "rgb8": (3, 1, np.copy),
    "bgr8": (3, 1, _by_opencv(cv2.COLOR_BGR2RGB)),
    "8UC3": (3, 1, _by_opencv(cv2.COLOR_BGR2RGB)),  # OpenCV's own channel order, as cv_bridge reads it
    "rgba8": (4, 1, _by_opencv(cv2.COLOR_RGBA2RGB)),
    "bgra8": (4, 1, _by_opencv(cv2.COLOR_BGRA2RGB)),
    "8UC4": (4, 1, _by_opencv(cv2.COLOR_BGRA2RGB)),
    "mono8": (1, 1, _by_opencv(cv2.COLOR_GRAY2RGB)),
    "8UC1": (1, 1, _by_opencv(cv2.COLOR_GRAY2RGB)),
    "mono16": (1, 2, _gray16_to_rgb),
    "bayer_rggb8": (1, 1, _by_opencv(cv2.COLOR_BayerBG2RGB)),
    "bayer_bggr8": (1, 1, _by_opencv(cv2.COLOR_BayerRG2RGB)),
    "bayer_gbrg8": (1, 1, _by_opencv(cv2.COLOR_BayerGR2RGB)),
    "bayer_grbg8": (1, 1, _by_opencv(cv2.COLOR_BayerGB2RGB)),
    "yuv422": (2, 1, _by_opencv(cv2.COLOR_YUV2RGB_UYVY)),
    "uyvy": (2, 1, _by_opencv(cv2.COLOR_YUV2RGB_UYVY)),
    "yuv422_yuy2": (2, 1, _by_opencv(cv2.COLOR_YUV2RGB_YUY2)),
    "yuyv": (2, 1, _by_opencv(cv2.COLOR_YUV2RGB_YUY2)),
}

SUPPORTED_ENCODINGS = tuple(_DECODERS)


def decode_image(
    data: Any, width: int, height: int, step: int, encoding: str, is_bigendian: bool | int
) -> RgbImage:
    """Pixels of a ``sensor_msgs/Image``, given its fields.

    Args:
        data: any object with the buffer protocol (bytes, array.array, NumPy array), ``step * height`` bytes.
        width, height: size in pixels.
        step: bytes from the start of a row to the start of the next, padding included.
        encoding: one of ``SUPPORTED_ENCODINGS``.
        is_bigendian: byte order of 16-bit pixels.

    Returns:
        (H, W, 3) uint8 RGB; one-channel images get three equal channels, 16 bits are scaled to 8.

    Raises:
        MessageError: the encoding is not supported, or the fields contradict each other.
    """
    if encoding not in _DECODERS:
        raise MessageError(
            f"Image encoding '{encoding}' is not supported: publish one of {', '.join(SUPPORTED_ENCODINGS)}."
        )
    channels, itemsize, to_rgb = _DECODERS[encoding]
    if not (0 < width <= MAX_SIDE and 0 < height <= MAX_SIDE):
        raise MessageError(f"An image of {width}x{height} pixels (width x height) cannot be used.")
    if step < width * channels * itemsize:
        raise MessageError(
            f"The image's step of {step} bytes is too small for {width} pixels of {encoding}, "
            f"which take {width * channels * itemsize}."
        )
    length = memoryview(data).nbytes
    if length != step * height:
        raise MessageError(
            f"The image's data holds {length} bytes, but step {step} x height {height} is {step * height}."
        )
    if encoding.startswith(("bayer", "yuv", "uyvy", "yuyv")) and (width < 2 or height < 2 or width % 2):
        raise MessageError(
            f"An image in {encoding} needs an even width and two rows at least, not {width}x{height}."
        )
    pixels: npt.NDArray[Any] = np.ndarray(
        (height, width, channels),
        np.dtype(f"{'>' if is_bigendian else '<'}u{itemsize}"),
        buffer=data,
        strides=(step, channels * itemsize, itemsize),
    )
    # OpenCV misreads views with gaps between rows, hence contiguous
    return to_rgb(np.ascontiguousarray(pixels[:, :, 0] if channels == 1 else pixels))


def decode_compressed(data: Any) -> RgbImage:
    """Pixels of a JPEG, PNG or other image file in memory, as ``sensor_msgs/CompressedImage`` carries it.

    Pixels are as stored: an EXIF orientation is not applied, for the calibration belongs to stored pixels.

    Args:
        data: any object with the buffer protocol.

    Returns:
        (H, W, 3) uint8 RGB; gray images get three equal channels, 16 bits are scaled to 8.

    Raises:
        MessageError: the data are cut short or not an image.
    """
    encoded = bytes(memoryview(data))
    if not encoded:
        raise MessageError("The compressed image is empty.")
    if _is_cut_short(encoded):
        raise MessageError(f"The compressed image of {len(encoded)} bytes is cut short.")
    flags = cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION
    try:
        bgr = cv2.imdecode(np.frombuffer(encoded, np.uint8), flags)
    except cv2.error as error:  # e.g. a header that claims more pixels than OpenCV accepts
        raise MessageError(f"The compressed image cannot be decoded: {error.err}.") from error
    if bgr is None:
        raise MessageError(f"The compressed image of {len(encoded)} bytes is not a readable JPEG or PNG.")
    return np.asarray(cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB), np.uint8)


def _is_cut_short(encoded: bytes) -> bool:
    """Whether a JPEG or PNG lacks its end: OpenCV would fill the missing part with gray and say nothing."""
    if encoded.startswith(b"\xff\xd8"):  # JPEG: the last start of scan needs an end of image after it
        return encoded.rfind(b"\xff\xd9") <= encoded.rfind(b"\xff\xda")
    if encoded.startswith(b"\x89PNG"):
        return encoded.rfind(b"IEND") < 0
    return False
