"""Depth maps as files: 16-bit PNG in KITTI's encoding, and NumPy archives that keep every digit."""

from __future__ import annotations

import logging
import zipfile
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

from dualrefine_ros.errors import DataError

log = logging.getLogger(__name__)

DepthMap = npt.NDArray[np.float32]
PNG_SCALE = 256.0  # stored value = metres x 256, 0 = no value (KITTI depth benchmark, Uhrig et al. 2017)
NPZ_KEY = "depth"
SUFFIXES = (".npz", ".npy", ".png")  # what keeps every digit first


def read_depth(path: str | Path) -> DepthMap:
    """A depth map as (H, W) float32 metres, NaN where the file has no value.

    Args:
        path: a 16-bit PNG (metres x 256), an .npz whose array is called ``depth`` or is its only one, or
            an .npy.

    Raises:
        DataError: the file is missing, damaged or no depth map.
    """
    path = Path(path)
    if not path.is_file():
        raise DataError(f"{path} does not exist.")
    return _read_png(path) if path.suffix.lower() == ".png" else _read_numpy(path)


def encode_depth(depth: DepthMap) -> npt.NDArray[np.uint16]:
    """(H, W) metres in steps of 1/256 m up to 256 m, 0 where there is no value."""
    # at least 1: a depth too small for the encoding is still a depth
    encoded = np.clip(np.rint(depth * np.float32(PNG_SCALE)), 1, 65535)
    return np.where(np.isfinite(depth), encoded, 0).astype(np.uint16)


def write_depth_png(path: str | Path, depth: DepthMap) -> None:
    """Write (H, W) metres as 16-bit PNG; NaN becomes "no value".

    Raises:
        DataError: the file cannot be written.
    """
    _, data = cv2.imencode(".png", encode_depth(depth))
    try:
        Path(path).write_bytes(data.tobytes())
    except OSError as error:
        raise DataError(f"{path} cannot be written: {error.strerror}.") from None


def write_depth_npz(path: str | Path, depth: DepthMap) -> None:
    """Write (H, W) metres as they are, uncompressed: depth is noise to a compressor.

    Raises:
        DataError: the file cannot be written.
    """
    try:
        np.savez(path, depth=depth)
    except OSError as error:
        raise DataError(f"{path} cannot be written: {error.strerror}.") from None


def list_depth_maps(folder: Path) -> dict[str, Path]:
    """Name -> file of the depth maps in a folder, in order; a name is a frame number or the file's stem.

    Of a map in two formats the exact one is taken, and a warning says so.

    Raises:
        DataError: there is no such folder, no depth map in it, or two of the same frame.
    """
    if not folder.is_dir():
        raise DataError(f"{folder} is no folder of depth maps.")
    formats = [path for path in folder.iterdir() if path.suffix.lower() in SUFFIXES]
    maps: dict[str, Path] = {}
    spare = 0
    for path in sorted(formats, key=lambda path: (path.stem, SUFFIXES.index(path.suffix.lower()))):
        other = maps.setdefault(frame_name(path.stem), path)
        if other.stem != path.stem:
            raise DataError(f"{other} and {path.name} are depth maps of the same frame: keep one of them.")
        spare += other is not path
    if not maps:
        raise DataError(f"{folder} holds no depth map ({', '.join(SUFFIXES)}).")
    if spare:
        log.warning("%s: %d maps are there twice; first of %s is read.", folder, spare, ", ".join(SUFFIXES))
    return maps


def frame_name(stem: str) -> str:
    """Frame numbers without leading zeros, so that 0000000069.png and 000069.npz are the same frame."""
    return str(int(stem)) if stem.isdecimal() else stem


def _read_png(path: Path) -> DepthMap:
    stored = cv2.imdecode(np.fromfile(path, np.uint8), cv2.IMREAD_UNCHANGED) if path.stat().st_size else None
    if stored is None or stored.dtype != np.uint16 or stored.ndim != 2:
        raise DataError(f"{path} is no 16-bit gray PNG.")
    return np.where(stored > 0, stored / np.float32(PNG_SCALE), np.float32(np.nan))


def _read_numpy(path: Path) -> DepthMap:
    try:
        content = np.load(path, allow_pickle=False)
        if isinstance(content, np.lib.npyio.NpzFile):
            with content:
                key = NPZ_KEY if NPZ_KEY in content or len(content.files) != 1 else content.files[0]
                content = content[key]
    except KeyError:
        raise DataError(f"{path} holds no array called '{NPZ_KEY}'.") from None
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise DataError(f"{path} is not a whole NumPy file ({error}).") from None
    depth = np.squeeze(content)
    if depth.ndim != 2 or depth.dtype.kind not in "fiu":
        raise DataError(f"{path} is no depth map: its array is {content.shape} {content.dtype}.")
    depth = depth.astype(np.float32)
    return np.where(depth > 0, depth, np.float32(np.nan))
