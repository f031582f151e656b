"""Plain folders of images with a camera calibration."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
import numpy.typing as npt

from dualrefine_ros.data.image_files import ImageFile, ImageFiles, common_image_size, list_images
from dualrefine_ros.data.rectification import Rectifier, read_camera_yaml
from dualrefine_ros.errors import DataError
from dualrefine_ros.frame import NANOSECONDS
from dualrefine_ros.geometry.trajectory import read_times

# digits of a file name that is a time since 1970: nanoseconds in one of its units
_UNITS_NS = {19: 1, 16: 1_000, 13: 1_000_000}
_MAX_NUMBER_DIGITS = 9  # of a frame number: a longer one is a time


def open_image_folder(
    path: Path, calibration: str | Path | None = None, rate: float | None = None
) -> ImageFiles:
    """The images of a folder in order of name (frame2 before frame10), rectified.

    Args:
        path: folder of PNG or JPEG files.
        calibration: YAML file of ROS's camera_calibration; by default the only one in the folder.
        rate: frames per second. By default stamps are read from ``times.txt`` (seconds, a line an image),
            else from file names that are times (``1403636579763555584.png``, ``1305031102.175304.png``).

    Raises:
        DataError: something is missing or malformed.
    """
    images = list_images(path)
    calibration = find_calibration(path, calibration)
    camera = read_camera_yaml(calibration)
    stored = common_image_size(images)
    if stored != (camera.width, camera.height):
        raise DataError(
            f"The images of {path} are {stored[0]}x{stored[1]} pixels, but their calibration is for "
            f"{camera.width}x{camera.height}: give the calibration of these images."
        )
    stamps_ns = _read_stamps(path, images, rate)
    frame_ids = _frame_numbers(images)
    files = [ImageFile(*item) for item in zip(images, frame_ids, stamps_ns.tolist(), strict=True)]
    return ImageFiles(
        path.name,
        files,
        camera.rectified,
        rectify=None if camera.is_pinhole else Rectifier(camera),
        calibration=calibration,
    )


def find_calibration(path: Path, calibration: str | Path | None) -> Path:
    """The file asked for, else the only YAML file in a folder or beside a video, by its name."""
    if calibration is not None:
        return Path(calibration)
    found = sorted(path.glob("*.y*ml")) if path.is_dir() else sorted(path.parent.glob(f"{path.stem}.y*ml"))
    if len(found) != 1:
        raise DataError(
            f"{path} has {'more than one' if found else 'no'} camera calibration beside it: put one there or "
            "name it with --calibration (YAML, as ROS's camera_calibration writes it)."
        )
    return found[0]


def stamps_at_rate(count: int, rate: float) -> npt.NDArray[np.int64]:
    """(count,) nanoseconds from 0 at ``rate`` frames per second; DataError where that is no rate."""
    if not 0 < rate < NANOSECONDS:
        raise DataError(f"The rate (--rate) must be a positive number of frames per second, not {rate}.")
    return np.round(np.arange(count) * (NANOSECONDS / rate)).astype(np.int64)


def _read_stamps(path: Path, images: Sequence[Path], rate: float | None) -> npt.NDArray[np.int64]:
    if rate is not None:
        return stamps_at_rate(len(images), rate)
    times_path = path / "times.txt"
    if times_path.is_file():
        stamps_ns = read_times(times_path)
        if len(stamps_ns) != len(images):
            raise DataError(f"{times_path} has {len(stamps_ns)} lines for {len(images)} images.")
        return stamps_ns
    named = [_stamp_of_name(image.stem) for image in images]
    if None in named:
        raise DataError(
            f"{path} has neither times.txt nor times for file names: write the times there or "
            "give the frames per second with --rate."
        )
    stamps_ns = np.array(named, np.int64)
    if np.any(np.diff(stamps_ns) <= 0):
        image = images[int(np.argmax(np.diff(stamps_ns) <= 0)) + 1]
        raise DataError(f"{image}: by its name it is not later than the image before it.")
    return stamps_ns


def _stamp_of_name(stem: str) -> int | None:
    seconds, point, fraction = stem.partition(".")
    if point and seconds.isdecimal() and fraction.isdecimal() and len(fraction) <= 9:
        return int(seconds) * NANOSECONDS + int(fraction.ljust(9, "0"))
    if stem.isdecimal() and len(stem) in _UNITS_NS:
        return int(stem) * _UNITS_NS[len(stem)]
    return None


def _frame_numbers(images: Sequence[Path]) -> Sequence[int]:
    """The numbers at the end of the file names, where they are frame numbers; else 0, 1, 2, ..."""
    if any(_stamp_of_name(image.stem) is not None for image in images):
        return range(len(images))
    endings = [image.stem[len(image.stem.rstrip("0123456789")) :] for image in images]
    if all(0 < len(ending) <= _MAX_NUMBER_DIGITS for ending in endings):
        numbers = [int(ending) for ending in endings]
        if all(after > before for before, after in pairwise(numbers)):
            return numbers
    return range(len(images))
