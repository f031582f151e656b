"""Recordings decoded and resized once: training reads pixels, not JPEG files or bags."""

from __future__ import annotations

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

_VERSION = 1  # of the files


@dataclass(frozen=True)
class CachedRecording:
    """A recording at network size.

    Args:
        name: for people.
        pixels: opens the (N, H, W, 3) uint8 images, which stay on disk.
        frame_ids: (N,) the recording's own numbers; where they jump, images are missing in between.
        readable: (N,) bool, whether the image could be read.
        intrinsics: fx, fy, cx, cy at network size.
    """

    name: str
    pixels: PerProcess[npt.NDArray[np.uint8]]
    frame_ids: npt.NDArray[np.int64]
    readable: npt.NDArray[np.bool_]
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
    images_path, readable_path = folder / f"{stem}.npy", folder / f"{stem}_readable.npy"
    if not readable_path.is_file():
        try:
            _write(source, height, width, images_path, readable_path)
        except OSError as error:
            raise DataError(
                f"The frame cache {folder} cannot be written ({error}): name another folder."
            ) from error
    readable: npt.NDArray[np.bool_] = np.load(readable_path)
    if not readable.any():
        readable_path.unlink()
        raise DataError(f"{source.name}: not one frame can be read.")
    if not readable.all():
        log.warning("%s: %d of %d frames cannot be read.", source.name, (~readable).sum(), len(readable))
    camera = source.intrinsics.resized(width, height)
    return CachedRecording(
        source.name,
        PerProcess(partial(np.load, images_path, mmap_mode="r")),
        np.array([source.frame_id(i) for i in range(len(source))], np.int64),
        readable,
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


def _write(source: Source, height: int, width: int, images_path: Path, readable_path: Path) -> None:
    """Both files, the one that marks the other as whole last."""
    images_path.parent.mkdir(parents=True, exist_ok=True)
    own = f".{os.getpid()}"  # several processes may write the same recording
    partial_path = images_path.with_suffix(own)
    shape = (len(source), height, width, 3)
    images = np.lib.format.open_memmap(partial_path, mode="w+", dtype=np.uint8, shape=shape)
    readable = np.zeros(len(source), bool)
    with tqdm(total=len(source), unit="frame", desc=f"Reading {source.name}", leave=False) as bar:
        for index, frame in source.indexed(range(len(source))):
            images[index] = resized(frame.image, height, width)
            readable[index] = True
            bar.update()
    images.flush()
    del images
    os.replace(partial_path, images_path)
    with open(partial_path, "wb") as file:
        np.save(file, readable)
    os.replace(partial_path, readable_path)
