"""Image and calibration messages to frames of a pinhole camera; rectifies where the topic is not."""

from __future__ import annotations

import copy
import io

import cv2
import numpy as np
import PIL.Image
from sensor_msgs.msg import CameraInfo, CompressedImage, Image
from std_msgs.msg import Header

from dualrefine_ros.data.image_encoding import RgbImage, decode_compressed
from dualrefine_ros.data.rectification import CameraCalibration, Rectifier, calibration_from_camera_info
from dualrefine_ros.errors import InputError, MessageError
from dualrefine_ros.frame import Frame, Intrinsics
from dualrefine_ros.ros.conversions import camera_info_message, rgb_from_image, stamp_to_ns


class Camera:
    """Makes frames; remembers what it prepared for the calibration at hand.

    Args:
        rectified: whether the images are rectified already; their distortion is then history.
    """

    def __init__(self, rectified: bool) -> None:
        self._rectified = rectified
        self._info: CameraInfo | None = None  # that the two below are made of
        self._calibration: CameraCalibration | None = None
        self._rectifier: Rectifier | None = None  # none: a pinhole camera's images stay as they are
        self._intrinsics: Intrinsics | None = None

    def frame(self, image: Image | CompressedImage, info: CameraInfo) -> Frame:
        """The rectified frame of an image, stamped as it.

        Raises:
            MessageError: a message is unusable.
            InputError: image and calibration differ in size, or the calibration is no camera's.
        """
        calibration = self._calibrate(info)
        if isinstance(image, CompressedImage):
            width, height = _size_of_file(image)
            _expect_size(calibration, width, height)  # before a small file becomes a huge image
            rgb = decode_compressed(image.data)
        else:
            _expect_size(calibration, image.width, image.height)
            rgb = rgb_from_image(image)
        return Frame(stamp_to_ns(image.header.stamp), self._rectify(rgb, calibration), self._intrinsics_now())

    def size(self, info: CameraInfo) -> tuple[int, int]:
        """Width and height of the images that a camera_info is of.

        Raises:
            MessageError: it is unusable.
        """
        calibration = calibration_of(info, self._rectified)
        return calibration.width, calibration.height

    def rectified_info(self, header: Header) -> CameraInfo:
        """The calibration of the frame made last, under another header."""
        if self._info is not None and self._rectifier is None:
            info = copy.copy(self._info)
            info.header = header
            return info
        return camera_info_message(self._intrinsics_now(), header)

    def _calibrate(self, info: CameraInfo) -> CameraCalibration:
        if self._calibration is not None and self._info is not None and is_same_calibration(info, self._info):
            return self._calibration
        calibration = calibration_of(info, self._rectified)
        self._info, self._calibration = info, calibration
        self._rectifier, self._intrinsics = None, None
        return calibration

    def _rectify(self, rgb: RgbImage, calibration: CameraCalibration) -> RgbImage:
        try:
            if self._intrinsics is None:  # the first image with this calibration
                if not calibration.is_pinhole:
                    self._rectifier = Rectifier(calibration)
                self._intrinsics = calibration.rectified
            return rgb if self._rectifier is None else self._rectifier(rgb)
        except cv2.error as error:
            raise InputError(
                f"The image cannot be rectified with this calibration ({error.err}): calibrate the camera."
            ) from error

    def _intrinsics_now(self) -> Intrinsics:
        assert self._intrinsics is not None, "there was no frame yet"
        return self._intrinsics


def calibration_of(info: CameraInfo, rectified: bool) -> CameraCalibration:
    """The calibration of images with this camera_info, ROI and binning applied.

    Args:
        info: from the topic.
        rectified: that the images are rectified: ``P`` (else ``K``) is their pinhole camera.

    Raises:
        MessageError: the camera is not calibrated, or a number makes no sense.
    """
    if not (info.k[0] or info.p[0]):
        raise MessageError(
            "camera_info says that the camera is not calibrated (its K and P are zero): calibrate it, "
            "for example with the package camera_calibration."
        )
    if not all(np.isfinite(numbers).all() for numbers in (info.k, info.p, info.d, info.r)):
        raise MessageError("camera_info holds a number that is not finite: calibrate the camera.")
    if not info.k[0] or (rectified and info.p[0]):
        info = copy.copy(info)
        info.k = np.array(info.p, np.float64).reshape(3, 4)[:, :3].ravel()
    if rectified:
        info = copy.copy(info)
        info.d, info.r = [], np.eye(3).ravel()
    try:
        return calibration_from_camera_info(info)
    except InputError as error:
        raise MessageError(f"camera_info cannot be used. {error}") from error


def _expect_size(calibration: CameraCalibration, width: int, height: int) -> None:
    if (width, height) != (calibration.width, calibration.height):
        raise InputError(
            f"The image is {width}x{height}, but camera_info is of images of {calibration.width}x"
            f"{calibration.height} (ROI and binning applied): publish the calibration of this image."
        )


def _size_of_file(message: CompressedImage) -> tuple[int, int]:
    try:
        with PIL.Image.open(io.BytesIO(bytes(memoryview(message.data)))) as image:
            return image.size
    except Exception as error:  # whatever a damaged header leads Pillow to; nothing is decoded here
        raise MessageError(
            f"A compressed image of {len(message.data)} bytes (format '{message.format}') is no readable "
            "JPEG or PNG."
        ) from error


def is_same_calibration(first: CameraInfo, second: CameraInfo) -> bool:
    """Whether two messages say the same, whenever they do."""
    return _without_header(first) == _without_header(second)


def _without_header(info: CameraInfo) -> CameraInfo:
    info = copy.copy(info)
    info.header = Header()
    return info
