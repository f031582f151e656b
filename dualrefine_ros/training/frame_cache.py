"""Recordings decoded and resized once: training reads pixels, not JPEG files or bags."""

from __future__ import annotations

import errno
import hashlib
import json
import logging
import os
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from tqdm import tqdm

from dualrefine_ros.data.per_process import PerProcess
from dualrefine_ros.data.source import Source
from dualrefine_ros.errors import DataError
from dualrefine_ros.network_io import resized

log = logging.getLogger(__name__)

_VERSION = 2  # of the files


@dataclass(frozen=True)
class CachedRecording:
    """A recording at network size.

    Args:
        name: for people.
        pixels: opens the (N, H, W, 3) uint8 images, which stay on disk.
        frame_ids: (N,) the recording's own numbers; where they jump, images are missing in between.
        readable: (N,) bool, whether the image could be read.
        stamps_ns: (N,) when it was taken; meaningless where it could not be read.
        intrinsics: fx, fy, cx, cy at network size.
    """

    name: str
    pixels: PerProcess[npt.NDArray[np.uint8]]
    frame_ids: npt.NDArray[np.int64]
    readable: npt.NDArray[np.bool_]
    stamps_ns: npt.NDArray[np.int64]
    intrinsics: tuple[float, float, float, float]


def cache_recording(
    source: Source, identity: Mapping[str, Any], height: int, width: int, folder: Path
) -> CachedRecording:
    """The recording at this size, read from ``folder`` or written there first, or anew once it changed.

    Args:
        source: the recording.
        identity: what tells it from others (path, options); JSON values.
        height, width: of the network.
        folder: of all cached recordings.

    Raises:
        DataError: not one frame can be read, or the folder cannot be written.
    """
    state = _fingerprint(source.pixel_files())
    key = json.dumps([_VERSION, dict(identity), height, width, len(source), state], sort_keys=True)
    stem = f"{source.name}_{width}x{height}_{hashlib.sha256(key.encode()).hexdigest()[:12]}"
    images_path, frames_path = folder / f"{stem}.npy", folder / f"{stem}_frames.npz"
    if not frames_path.is_file():
        try:
            _write(source, height, width, images_path, frames_path)
        except OSError as error:
            raise DataError(
                f"The frame cache {folder} cannot be written ({error}): set data.cache to another one."
            ) from error
    with np.load(frames_path) as file:
        readable, stamps_ns = file["readable"], file["stamps_ns"]
    if not readable.any():
        frames_path.unlink()
        raise DataError(f"{source.name}: not one frame can be read.")
    if not readable.all():
        log.warning("%s: %d of %d frames cannot be read.", source.name, (~readable).sum(), len(readable))
    camera = source.intrinsics.resized(width, height)
    return CachedRecording(
        source.name,
        PerProcess(partial(np.load, images_path, mmap_mode="r")),
        np.array([source.frame_id(i) for i in range(len(source))], np.int64),
        readable,
        stamps_ns,
        (camera.fx, camera.fy, camera.cx, camera.cy),
    )


def _fingerprint(files: Iterable[Path]) -> list[int]:
    """Sums of the files' sizes and times of change: an edit in place moves one of them."""
    sizes, times_ns = 0, 0
    for file in files:
        with suppress(OSError):  # a link to nowhere: its frame is left out when its turn comes
            state = file.stat()
            sizes, times_ns = sizes + state.st_size, times_ns + state.st_mtime_ns
    return [sizes, times_ns]


def _write(source: Source, height: int, width: int, images_path: Path, frames_path: Path) -> None:
    """Both files, the one that marks the other as whole last; nothing is left where it fails."""
    images_path.parent.mkdir(parents=True, exist_ok=True)
    partial_path = images_path.with_suffix(
        f".{os.getpid()}"
    )  # several processes may write the same recording
    shape = (len(source), height, width, 3)
    readable, stamps_ns = np.zeros(len(source), bool), np.zeros(len(source), np.int64)
    try:
        images = np.lib.format.open_memmap(partial_path, mode="w+", dtype=np.uint8, shape=shape)
        _reserve(partial_path)
        with tqdm(total=len(source), unit="frame", desc=f"Reading {source.name}", leave=False) as bar:
            for index, frame in source.indexed(range(len(source))):
                images[index] = resized(frame.image, height, width)
                readable[index], stamps_ns[index] = True, frame.stamp_ns
                bar.update()
        images.flush()
        del images
        os.replace(partial_path, images_path)
        with open(partial_path, "wb") as file:
            np.savez(file, readable=readable, stamps_ns=stamps_ns)
        os.replace(partial_path, frames_path)
    finally:
        partial_path.unlink(missing_ok=True)


def _reserve(path: Path) -> None:
    """Take the disk space of a file now: a mapped one that finds the disk full kills the process.

    Raises:
        OSError: there is not enough of it.
    """
    if not hasattr(os, "posix_fallocate"):
        return
    with open(path, "r+b") as file:
        try:
            os.posix_fallocate(file.fileno(), 0, path.stat().st_size)
        except OSError as error:
            if error.errno not in (errno.EINVAL, errno.EOPNOTSUPP):  # what file systems say that cannot
                raise
