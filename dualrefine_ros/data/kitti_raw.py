"""KITTI raw drives: ``<date>/<date>_drive_NNNN_sync``, the date's calibration files beside the drives.

Ground truth comes from the GPS/IMU unit (OXTS): poses in a local Mercator projection, as the dataset's
development kit defines them (Geiger et al., "Vision meets Robotics: The KITTI Dataset", 2013), and depth
from the laser scanner.
"""

from __future__ import annotations

import calendar
import math
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from dualrefine_ros.data.calibration import read_kitti_calibration, rectified_camera
from dualrefine_ros.data.depth_files import read_depth
from dualrefine_ros.data.image_files import ImageFile, ImageFiles, common_image_size, list_numbered_images
from dualrefine_ros.data.kitti import find_camera, rows_of_frames, trajectory_of
from dualrefine_ros.data.velodyne import load_scan, project_velodyne
from dualrefine_ros.errors import DataError
from dualrefine_ros.frame import NANOSECONDS, Intrinsics
from dualrefine_ros.geometry.text_file import read_text

FloatArray = npt.NDArray[np.float64]

EARTH_RADIUS = 6378137.0  # metres, at the equator
OXTS_FIELDS = 30  # latitude, longitude, altitude, roll, pitch, yaw, velocities, ...

_TIMESTAMP = re.compile(r"(\d{4}-\d\d-\d\d \d\d:\d\d:\d\d)(?:\.(\d{1,9}))?")


def open_kitti_raw(path: Path, camera: int | None = None, depth: str | None = None) -> ImageFiles:
    """One drive, seen by one of its cameras.

    Args:
        path: the ``*_sync`` folder.
        camera: 0 to 3; by default the left colour camera, else whichever there is.
        depth: which ground-truth depth the frames carry: "velodyne", the scan, along the optical axis;
            "eigen", the scan, ahead of the scanner, as in the literature's figures on the Eigen split;
            "annotated", the improved maps (Uhrig et al. 2017) in ``proj_depth/groundtruth``; or none.

    Raises:
        DataError: something is missing or malformed.
    """
    camera = find_camera(path, camera, "image_{:02d}")
    images = list_numbered_images(path / f"image_{camera:02d}" / "data")
    calibration = read_kitti_calibration(path.parent / "calib_cam_to_cam.txt")
    width, height = (int(side) for side in calibration.matrix(f"S_rect_{camera:02d}", (2,)))
    stored = common_image_size(list(images.values()))
    if stored != (width, height):
        raise DataError(
            f"The images of {path} are {stored[0]}x{stored[1]} pixels, but {calibration.path} says "
            f"{width}x{height}."
        )
    intrinsics, T_cam0_cam = rectified_camera(calibration, f"P_rect_{camera:02d}", stored)
    frame_ids = np.array(list(images))
    timestamps_path = path / f"image_{camera:02d}" / "timestamps.txt"
    stamps_ns = rows_of_frames(timestamps_path, read_timestamps(timestamps_path), frame_ids)
    poses: dict[int, FloatArray] = {}
    if (path / "oxts" / "data").is_dir():
        poses = _read_poses(path, images, T_cam0_cam)
    files = [
        ImageFile(image, frame_id, int(stamp_ns), poses.get(frame_id))
        for (frame_id, image), stamp_ns in zip(images.items(), stamps_ns, strict=True)
    ]
    return ImageFiles(
        path.name,
        files,
        intrinsics,
        T_cam0_cam,
        load_depth=_depth_loader(path, camera, depth, T_cam0_cam, intrinsics),
        ground_truth=trajectory_of(files),
    )


def read_timestamps(path: Path) -> npt.NDArray[np.int64]:
    """Lines like ``2011-09-26 13:02:25.964389445`` -> (N,) int64 nanoseconds since 1970, read as UTC.

    Raises:
        DataError: the file is missing, or a line is no time or not after the one before.
    """
    stamps_ns: list[int] = []
    for number, line in enumerate(read_text(path).splitlines(), 1):
        match = _TIMESTAMP.fullmatch(line.strip())
        try:
            if match is None:
                raise ValueError
            seconds = calendar.timegm(time.strptime(match[1], "%Y-%m-%d %H:%M:%S"))
        except ValueError:
            raise DataError(f"{path}, line {number}: '{line[:60]}' is no date and time.") from None
        stamps_ns.append(seconds * NANOSECONDS + int((match[2] or "").ljust(9, "0")))
        if number > 1 and stamps_ns[-1] <= stamps_ns[-2]:
            raise DataError(f"{path}, line {number}: {line.strip()} is not after the time before it.")
    return np.array(stamps_ns, np.int64)


def oxts_pose(packet: FloatArray, scale: float) -> FloatArray:
    """T_map_imu (4, 4) of an OXTS packet: Mercator position, rotation Rz(yaw) Ry(pitch) Rx(roll).

    Args:
        packet: latitude, longitude (degrees), altitude (m), roll, pitch, yaw (rad), ...
        scale: cosine of the latitude at which the map's metres are metres: the drive's first.
    """
    latitude, longitude, altitude, roll, pitch, yaw = packet[:6]
    T = np.eye(4)
    T[:3, :3] = _rotation(2, yaw) @ _rotation(1, pitch) @ _rotation(0, roll)
    T[:3, 3] = (
        scale * EARTH_RADIUS * math.radians(longitude),
        scale * EARTH_RADIUS * math.log(math.tan(math.radians(90 + latitude) / 2)),
        altitude,
    )
    return T


def _rotation(axis: int, angle: float) -> FloatArray:
    j, k = (axis + 1) % 3, (axis + 2) % 3
    R = np.eye(3)
    R[[j, k], [j, k]] = math.cos(angle)
    R[k, j], R[j, k] = math.sin(angle), -math.sin(angle)
    return R


def _read_poses(path: Path, images: dict[int, Path], T_cam0_cam: FloatArray) -> dict[int, FloatArray]:
    """Frame number -> T_world_cam, the world being camera 0 at the first frame that has a pose."""
    date = path.parent
    T_cam0_imu = _T_cam0_velo(date) @ read_kitti_calibration(date / "calib_imu_to_velo.txt").rigid_transform()
    T_imu_cam0 = np.linalg.inv(T_cam0_imu)
    packets = {}
    for frame_id in images:
        packet_path = path / "oxts" / "data" / f"{frame_id:010d}.txt"
        if packet_path.is_file():
            packets[frame_id] = _read_oxts(packet_path)
    if not packets:
        return {}
    first = next(iter(packets.values()))
    scale = math.cos(math.radians(first[0]))
    T_world_map = np.linalg.inv(oxts_pose(first, scale) @ T_imu_cam0)
    return {
        frame_id: T_world_map @ oxts_pose(packet, scale) @ T_imu_cam0 @ T_cam0_cam
        for frame_id, packet in packets.items()
    }


def _read_oxts(path: Path) -> FloatArray:
    try:
        packet = np.array([float(field) for field in read_text(path).split()])
    except ValueError as error:
        raise DataError(f"{path}, line 1: {error}.") from None
    if packet.size != OXTS_FIELDS or not np.isfinite(packet).all() or abs(packet[0]) >= 90:
        raise DataError(f"{path}, line 1: no OXTS packet of {OXTS_FIELDS} numbers, latitude first.")
    return packet


def _T_cam0_velo(date: Path) -> FloatArray:
    """Velodyne to the rectified camera 0."""
    T_rect = np.eye(4)
    T_rect[:3, :3] = read_kitti_calibration(date / "calib_cam_to_cam.txt").matrix("R_rect_00", (3, 3))
    return T_rect @ read_kitti_calibration(date / "calib_velo_to_cam.txt").rigid_transform()


@dataclass(frozen=True)
class ScanDepth:
    """Frame number -> depth map of its laser scan, None where the drive lacks the scan."""

    folder: Path
    T_cam_velo: FloatArray
    intrinsics: Intrinsics
    ahead_of_scanner: bool

    def __call__(self, frame_id: int) -> npt.NDArray[np.float32] | None:
        path = self.folder / f"{frame_id:010d}.bin"
        if not path.is_file():
            return None
        points = load_scan(path)
        shape = (self.intrinsics.height, self.intrinsics.width)
        depths = points[:, 0] if self.ahead_of_scanner else None
        return project_velodyne(points, self.T_cam_velo, self.intrinsics.matrix, shape, depths)


@dataclass(frozen=True)
class AnnotatedDepth:
    """Frame number -> improved depth map (Uhrig et al. 2017), None where there is none."""

    folder: Path

    def __call__(self, frame_id: int) -> npt.NDArray[np.float32] | None:
        path = self.folder / f"{frame_id:010d}.png"
        return read_depth(path) if path.is_file() else None


def _depth_loader(
    path: Path, camera: int, depth: str | None, T_cam0_cam: FloatArray, intrinsics: Intrinsics
) -> Callable[[int], npt.NDArray[np.float32] | None] | None:
    if depth is None:
        return None
    if depth == "annotated":
        folder = path / "proj_depth" / "groundtruth" / f"image_{camera:02d}"
    else:
        folder = path / "velodyne_points" / "data"
    if depth not in ("velodyne", "eigen", "annotated"):
        raise DataError(f"Depth '{depth}' is not known: choose velodyne, eigen or annotated.")
    if not folder.is_dir():
        raise DataError(f"{folder} does not exist: there is no {depth} depth for this camera.")
    if depth == "annotated":
        return AnnotatedDepth(folder)
    T_cam_velo = np.linalg.inv(T_cam0_cam) @ _T_cam0_velo(path.parent)
    return ScanDepth(folder, T_cam_velo, intrinsics, ahead_of_scanner=depth == "eigen")
