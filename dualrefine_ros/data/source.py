"""The one interface of all recordings: a :class:`Source` gives Frames, in order or by index."""

from __future__ import annotations

import inspect
import logging
import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from dualrefine_ros.data.image_encoding import RgbImage
from dualrefine_ros.errors import DataError, DualRefineError
from dualrefine_ros.frame import Frame, Intrinsics
from dualrefine_ros.geometry.trajectory import Trajectory

log = logging.getLogger(__name__)

VIDEO_SUFFIXES = (".mp4", ".avi", ".mkv", ".mov", ".m4v", ".mpg", ".mpeg", ".webm", ".ts")
BAG_SUFFIXES = (".mcap", ".db3")
IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg")


class Source(ABC):
    """Frames of one camera on one drive.

    ``for frame in source`` reads lazily and forgivingly: a frame that cannot be read, or whose stamp is
    not later than the one before, is reported, skipped and counted. ``source[i]`` is strict.
    Sources can be pickled, so that loader processes may share them.

    Attributes:
        name: for people, e.g. a sequence's number or a file's name.
        intrinsics: of the images as the frames carry them.
        ground_truth: poses of this camera with stamps and, where frames are numbered, frame numbers; None
            where unknown. It may lack frames, or lie between them.
        skipped: frames the latest iteration has left out so far.
    """

    name: str
    intrinsics: Intrinsics
    ground_truth: Trajectory | None = None
    skipped: int = 0

    @abstractmethod
    def __len__(self) -> int:
        """Number of recorded images, readable or not."""

    @abstractmethod
    def __getitem__(self, index: int) -> Frame:
        """The frame at ``index`` (from 0).

        Raises:
            DataError: it cannot be read.
            IndexError: there is no such index.
        """

    @abstractmethod
    def pixel_files(self) -> list[Path]:
        """The files that decide the frames' pixels: recording and, where it matters, calibration."""

    def frame_id(self, index: int) -> int:
        """The recording's own number of a frame: where it jumps, images are missing in between."""
        return range(len(self))[index]

    def index_of(self, frame_id: int) -> int:
        """The index of the frame numbered ``frame_id``; DataError where the recording lacks it."""
        if 0 <= frame_id < len(self):
            return frame_id
        raise DataError(f"{self.name} has no frame {frame_id}.")

    def __iter__(self) -> Iterator[Frame]:
        return self.frames(range(len(self)))

    def frames(self, indices: Iterable[int]) -> Iterator[Frame]:
        """The readable frames among increasing ``indices``, one at a time; restarts the count ``skipped``."""
        return (frame for _, frame in self.indexed(indices))

    def indexed(self, indices: Iterable[int]) -> Iterator[tuple[int, Frame]]:
        """Like :meth:`frames`, each frame with its index."""
        self.skipped = 0
        last_stamp_ns: int | None = None
        for index, read in self._readings(indices):
            try:
                frame = read()
                if last_stamp_ns is not None and frame.stamp_ns <= last_stamp_ns:
                    raise DataError(
                        f"Frame {self.frame_id(index)} is stamped {frame.stamp_ns} ns, "
                        f"not after the frame before it ({last_stamp_ns} ns)."
                    )
            except DualRefineError as error:
                self.skipped += 1
                log.warning("%s: frame skipped: %s", self.name, error)
                continue
            last_stamp_ns = frame.stamp_ns
            yield index, frame

    def _readings(self, indices: Iterable[int]) -> Iterator[tuple[int, Callable[[], Frame]]]:
        """Index, and what reads its frame; to be replaced where reading in order is cheaper than by index."""
        for index in indices:
            yield index, partial(self.__getitem__, index)


def check_size(image: RgbImage, intrinsics: Intrinsics, name: str) -> None:
    """Raise a DataError that names the image where it has not the size it was calibrated for."""
    height, width = image.shape[:2]
    if (width, height) != (intrinsics.width, intrinsics.height):
        raise DataError(
            f"{name} is {width}x{height} pixels, but the calibration is for "
            f"{intrinsics.width}x{intrinsics.height}."
        )


def open_source(path: str | Path, **options: Any) -> Source:
    """Open a recording, its kind told by what is on disk.

    ==========================================  ======================================================
    what ``path`` is                            options
    ==========================================  ======================================================
    KITTI odometry: ``sequences/NN``, or a      camera (0 to 3)
    folder of ``image_N`` and ``calib.txt``
    KITTI odometry: the folder of `sequences`   sequence (e.g. "09"), camera
    KITTI raw: a ``*_sync`` folder              camera, depth (velodyne, eigen or annotated)
    folder of images, or a video file           calibration (YAML file), rate (frames per second)
    rosbag2: folder, ``.mcap`` or ``.db3``      topic, ground_truth_topic, calibration, rectified
    ==========================================  ======================================================

    Args:
        path: see the table.
        options: see the table; one that is None counts as not given.

    Raises:
        DataError: nothing known lies there, a file is malformed, or an option does not apply.
    """
    path = Path(os.path.abspath(path))  # calibrations and poses may lie beside a folder given as "."
    kind, opener = _find_opener(path)
    given = {name: value for name, value in options.items() if value is not None}
    accepted = list(inspect.signature(opener).parameters)[1:]
    for name in given:
        if name not in accepted:
            raise DataError(
                f"Option '{name}' does not apply to {path}, which is {kind}: "
                f"its options are {', '.join(accepted)}."
            )
    return opener(path, **given)


def _find_opener(path: Path) -> tuple[str, Callable[..., Source]]:
    """What lies at ``path`` in words, and the function that opens it; readers are imported when needed."""
    if not path.exists():
        raise DataError(f"{path} does not exist.")
    suffix = path.suffix.lower()
    if suffix in BAG_SUFFIXES or (path.is_dir() and _contains(path, ("metadata.yaml", "*.mcap", "*.db3"))):
        from dualrefine_ros.data.rosbag import open_rosbag

        return "a ROS 2 bag", open_rosbag
    if suffix in VIDEO_SUFFIXES and path.is_file():
        from dualrefine_ros.data.video import open_video

        return "a video", open_video
    if path.is_file():
        raise DataError(
            f"{path} is no recording: give a folder, a bag ({', '.join(BAG_SUFFIXES)}) or a video."
        )
    if (path / "sequences").is_dir():
        from dualrefine_ros.data.kitti import open_kitti

        return "KITTI odometry", open_kitti
    if _contains(path, ("calib.txt", "image_[0-3]")):
        from dualrefine_ros.data.kitti import open_kitti_sequence

        return "a KITTI odometry sequence", open_kitti_sequence
    if path.name.endswith("_sync") or _contains(path, ("image_0[0-3]",)):
        from dualrefine_ros.data.kitti_raw import open_kitti_raw

        return "a KITTI raw drive", open_kitti_raw
    if _contains(path, [f"*{suffix}" for suffix in (*IMAGE_SUFFIXES, *map(str.upper, IMAGE_SUFFIXES))]):
        from dualrefine_ros.data.image_folder import open_image_folder

        return "a folder of images", open_image_folder
    raise DataError(
        f"{path} holds no recording known here: neither images, nor a KITTI sequence (image_2, calib.txt), "
        "nor a KITTI raw drive (image_02), nor a ROS 2 bag (metadata.yaml)."
    )


def _contains(folder: Path, patterns: Sequence[str]) -> bool:
    return any(next(folder.glob(pattern), None) is not None for pattern in patterns)
