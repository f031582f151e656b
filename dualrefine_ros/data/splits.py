"""The lists of KITTI frames that the literature trains and tests on, by name.

Eigen: Eigen, Puhrsch, Fergus, "Depth map prediction from a single image using a multi-scale deep network",
2014. Eigen-Zhou, its training part without static scenes, and the odometry split: Zhou et al.,
"Unsupervised learning of depth and ego-motion from video", 2017. Eigen benchmark: the test frames that
have an improved depth map (Uhrig et al., "Sparsity invariant CNNs", 2017).
"""

from __future__ import annotations

import lzma
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

from dualrefine_ros.data.source import Source, open_source
from dualrefine_ros.errors import DataError

SPLITS = {
    "eigen_zhou_train": "KITTI raw: training frames, three in a row each",
    "eigen_zhou_val": "KITTI raw: validation frames",
    "eigen_test": "KITTI raw: 697 test frames, depth from the laser scans",
    "eigen_benchmark_test": "KITTI raw: the 652 test frames with improved depth maps",
    "odom_train": "KITTI odometry 00-08: training frames",
    "odom_val": "KITTI odometry 00-08: validation frames",
    "odom_09": "KITTI odometry 09: test frames",
    "odom_10": "KITTI odometry 10: test frames",
}

_CAMERAS = {"l": 2, "r": 3}


@dataclass(frozen=True)
class SplitFrame:
    """A frame of a split.

    Args:
        folder: of the drive below the dataset's root, e.g. "2011_09_26/2011_09_26_drive_0002_sync"; of
            KITTI odometry "sequences/09".
        frame_id: number of the frame in the drive.
        camera: 2 (left) or 3 (right), both colour.
    """

    folder: str
    frame_id: int
    camera: int


def read_split(name: str) -> str:
    """The list as published, one ``folder frame side`` a line; DataError where there is no such split."""
    if name not in SPLITS:
        raise DataError(f"There is no split '{name}': there is {', '.join(SPLITS)}.")
    packed = files("dualrefine_ros.data") / "split_lists" / f"{name}.txt.xz"
    return lzma.decompress(packed.read_bytes()).decode("ascii")


def load_split(name: str) -> list[SplitFrame]:
    """The frames of a split, in the published order; DataError where there is no such split."""
    frames = []
    for line in read_split(name).splitlines():
        folder, frame_id, side = line.split()
        if folder.isdecimal():
            folder = f"sequences/{int(folder):02d}"
        frames.append(SplitFrame(folder, int(frame_id), _CAMERAS[side]))
    return frames


def open_split(name: str, root: Path, **options: Any) -> Iterator[tuple[Source, list[int]]]:
    """The drives of a split, each with the indices in it of the split's frames, increasing.

    Args:
        name: of the split.
        root: of the KITTI raw or odometry dataset.
        options: of :func:`dualrefine_ros.data.source.open_source`, e.g. ``depth="eigen"``.

    Raises:
        DataError: there is no such split, or a drive or a frame of it is missing.
    """
    frames_of: dict[tuple[str, int], list[int]] = {}
    for frame in load_split(name):
        frames_of.setdefault((frame.folder, frame.camera), []).append(frame.frame_id)
    for (folder, camera), frame_ids in frames_of.items():
        source = open_source(root / folder, camera=camera, **options)
        yield source, [source.index_of(frame_id) for frame_id in sorted(frame_ids)]
