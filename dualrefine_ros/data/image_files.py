"""A source whose frames are image files: what KITTI and plain folders have in common."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from dualrefine_ros.data.image_encoding import RgbImage, decode_compressed
from dualrefine_ros.data.source import IMAGE_SUFFIXES, Source, check_size
from dualrefine_ros.errors import DataError, MessageError
from dualrefine_ros.frame import Frame, Intrinsics
from dualrefine_ros.geometry.trajectory import Trajectory

SIZE_SAMPLE = 31  # images whose headers tell the size of all


@dataclass(frozen=True)
class ImageFile:
    """A recorded image that has not been read yet."""

    path: Path
    frame_id: int
    stamp_ns: int
    T_world_cam: npt.NDArray[np.float64] | None = None  # (4, 4), where known


@dataclass
class ImageFiles(Source):
    """Frames from image files.

    Args:
        name: for people.
        files: in order; at least one.
        intrinsics: of the frames' images, which have the size of the stored ones.
        T_cam0_cam: (4, 4) pose of this camera in the rig's first one; identity where there is but one.
        rectify: stored image -> image of ``intrinsics``; None where the stored ones are rectified.
        calibration: file that ``rectify`` comes from.
        load_depth: frame number -> (H, W) float32 ground-truth depth or None; where asked for.
        ground_truth: see :class:`Source`.
    """

    name: str
    files: Sequence[ImageFile]
    intrinsics: Intrinsics
    T_cam0_cam: npt.NDArray[np.float64] = field(default_factory=lambda: np.eye(4))
    rectify: Callable[[RgbImage], RgbImage] | None = None
    calibration: Path | None = None
    load_depth: Callable[[int], npt.NDArray[np.float32] | None] | None = None
    ground_truth: Trajectory | None = None

    def __post_init__(self) -> None:
        self._index_of = {file.frame_id: index for index, file in enumerate(self.files)}

    def __len__(self) -> int:
        return len(self.files)

    def pixel_files(self) -> list[Path]:
        return [*(file.path for file in self.files), *([self.calibration] if self.calibration else [])]

    def frame_id(self, index: int) -> int:
        return self.files[index].frame_id

    def index_of(self, frame_id: int) -> int:
        if frame_id not in self._index_of:
            raise DataError(f"{self.name} has no frame {frame_id}.")
        return self._index_of[frame_id]

    def __getitem__(self, index: int) -> Frame:
        file = self.files[index]
        image = read_image(file.path)
        check_size(image, self.intrinsics, str(file.path))
        if self.rectify is not None:
            image = self.rectify(image)
        depth = self.load_depth(file.frame_id) if self.load_depth else None
        return Frame(file.stamp_ns, image, self.intrinsics, file.T_world_cam, depth)


def read_image(path: Path) -> RgbImage:
    """(H, W, 3) uint8 RGB pixels of an image file as stored.

    Raises:
        DataError: the file is missing, cut short or no image.
    """
    try:
        return decode_compressed(path.read_bytes())
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}.") from None
    except MessageError as error:
        raise DataError(f"{path} cannot be decoded: {error}") from None


def list_images(folder: Path) -> list[Path]:
    """The PNG and JPEG files of a folder in order of name, frame2 before frame10.

    Raises:
        DataError: there is no such folder, or no image in it.
    """
    if not folder.is_dir():
        raise DataError(f"{folder} does not exist.")
    images = [
        path
        for path in folder.iterdir()
        if path.suffix.lower() in IMAGE_SUFFIXES and not path.name.startswith(".") and not path.is_dir()
    ]
    if not images:
        raise DataError(f"{folder} holds no PNG or JPEG image.")
    return sorted(images, key=_natural_order)


def _natural_order(path: Path) -> list[tuple[int, str]]:
    """Digits compare as numbers, everything else as text."""
    return [(int(part), "") if part.isdecimal() else (0, part) for part in re.split(r"(\d+)", path.name)]


def list_numbered_images(folder: Path) -> dict[int, Path]:
    """Frame number -> image file, in order of number, for files named by frame number.

    Raises:
        DataError: there is no such folder, no image in it, a name is no number, or a number comes twice.
    """
    numbered: dict[int, Path] = {}
    for path in list_images(folder):
        if not path.stem.isdecimal():
            raise DataError(f"{path} is not named by its frame number.")
        if int(path.stem) in numbered:
            raise DataError(f"{path} and {numbered[int(path.stem)].name} have the same frame number.")
        numbered[int(path.stem)] = path
    return dict(sorted(numbered.items()))


def common_image_size(paths: Sequence[Path]) -> tuple[int, int]:
    """Width and height in pixels of most images, by the headers of a sample spread over all.

    Raises:
        DataError: no image can be read.
    """
    step = -(-len(paths) // SIZE_SAMPLE)
    for sample in (paths[::step], paths):
        sizes = Counter(size for path in sample if (size := _header_size(path)) is not None)
        if sizes:
            return sizes.most_common(1)[0][0]
    raise DataError(f"None of the {len(paths)} images in {paths[0].parent} can be read.")


def _header_size(path: Path) -> tuple[int, int] | None:
    """Width and height that an image file claims, None where it is no image."""
    try:
        with Image.open(path) as image:
            return image.size
    except (OSError, ValueError, Image.DecompressionBombError):
        return None
