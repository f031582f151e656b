"""Video files with a camera calibration."""

from __future__ import annotations

import bisect
import logging
from functools import partial
from pathlib import Path

import cv2
import numpy as np

from dualrefine_ros.data.image_encoding import RgbImage
from dualrefine_ros.data.image_folder import find_calibration, stamps_at_rate
from dualrefine_ros.data.per_process import PerProcess
from dualrefine_ros.data.rectification import Rectifier, read_camera_yaml
from dualrefine_ros.data.source import Source
from dualrefine_ros.errors import DataError
from dualrefine_ros.frame import Frame

log = logging.getLogger(__name__)


def open_video(path: Path, calibration: str | Path | None = None, rate: float | None = None) -> VideoFile:
    """The frames of a video, rectified.

    Args:
        path: any file OpenCV can decode.
        calibration: YAML file of ROS's camera_calibration; by default the one named like the video.
        rate: frames per second; by default the video's own. Stamps count from 0 at that rate.

    Raises:
        DataError: something is missing or malformed.
    """
    return VideoFile(path, find_calibration(path, calibration), rate)


class VideoFile(Source):
    """See :func:`open_video`."""

    def __init__(self, path: Path, calibration: Path, rate: float | None) -> None:
        camera = read_camera_yaml(calibration)
        self.name = path.name
        self.intrinsics = camera.rectified
        self._path = path
        self._calibration_path = calibration
        self._rectify = None if camera.is_pinhole else Rectifier(camera)
        self._reader = PerProcess(partial(_FrameReader, path))
        reader = self._reader.get()
        count = reader.count_readable()
        if reader.size != (camera.width, camera.height):
            raise DataError(
                f"{path} is {reader.size[0]}x{reader.size[1]} pixels, but its calibration is for "
                f"{camera.width}x{camera.height}: give the calibration of this video."
            )
        self._stamps_ns = stamps_at_rate(count, reader.rate if rate is None else rate)

    def __len__(self) -> int:
        return len(self._stamps_ns)

    def pixel_files(self) -> list[Path]:
        return [self._path, self._calibration_path]

    def __getitem__(self, index: int) -> Frame:
        index = range(len(self))[index]
        image = self._reader.get().read(index)
        if image is None:
            raise DataError(f"{self._path}: frame {index} cannot be decoded.")
        if self._rectify is not None:
            image = self._rectify(image)
        return Frame(int(self._stamps_ns[index]), image, self.intrinsics)


class _FrameReader:
    """OpenCV's video decoder with frames by index."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._capture = cv2.VideoCapture(str(path))
        self._next = 0  # index of the frame that comes without seeking
        if not self._capture.isOpened():
            raise DataError(f"{path} cannot be opened as a video.")
        self.rate = float(self._capture.get(cv2.CAP_PROP_FPS))
        self.size = (
            int(self._capture.get(cv2.CAP_PROP_FRAME_WIDTH)),
            int(self._capture.get(cv2.CAP_PROP_FRAME_HEIGHT)),
        )

    def read(self, index: int) -> RgbImage | None:
        """The frame at ``index``, None where it cannot be decoded."""
        if index != self._next:  # seeking costs a key frame and all frames after it
            self._capture.set(cv2.CAP_PROP_POS_FRAMES, index)
        decoded, bgr = self._capture.read()
        self._next = index + 1 if decoded else -1
        return np.asarray(cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB), np.uint8) if decoded else None

    def count_readable(self) -> int:
        """Number of frames that can be decoded: the header of a video cut short promises more."""
        promised = max(int(self._capture.get(cv2.CAP_PROP_FRAME_COUNT)), 0)
        if promised and self.read(promised - 1) is not None:
            return promised
        count = bisect.bisect_left(range(promised), True, key=lambda index: self.read(index) is None)
        if count == 0:
            raise DataError(f"{self._path} holds no readable frame.")
        log.warning("%s is cut short: %d of %d frames can be read.", self._path, count, promised)
        return count
