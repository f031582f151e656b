"""KITTI odometry sequences, and clips laid out like them.

A sequence folder holds ``image_0`` .. ``image_3`` (0, 1 gray; 2, 3 colour; files named by frame number,
PNG or JPEG, numbers may be missing), ``calib.txt`` (the rectified projection matrices P0 .. P3) and
``times.txt`` (seconds). Its ground truth is ``poses.txt`` beside them, else ``../../poses/NN.txt``, both
poses of camera 0 in its first frame, else ``ground_truth_tum.txt``, poses of the camera itself.
"""

from __future__ import annotations

from pathlib import Path
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from dualrefine_ros.data.calibration import read_kitti_calibration, rectified_camera
from dualrefine_ros.data.image_files import ImageFile, ImageFiles, common_image_size, list_numbered_images
from dualrefine_ros.errors import DataError
from dualrefine_ros.geometry.trajectory import Trajectory, read_times, read_trajectory

CAMERAS = (2, 3, 0, 1)  # in order of preference: colour before gray, left before right
STAMP_TOLERANCE_NS = 1_000_000  # between a frame and its pose in a TUM file; times.txt has microseconds

T = TypeVar("T", bound=np.generic)


def open_kitti(path: Path, sequence: str | None = None, camera: int | None = None) -> ImageFiles:
    """A sequence of the KITTI odometry dataset, ``path`` being the folder of ``sequences``."""
    folders = sorted(folder.name for folder in (path / "sequences").iterdir() if folder.is_dir())
    if sequence is None:
        raise DataError(f"{path} holds sequences {', '.join(folders)}: name one with --sequence.")
    name = f"{int(sequence):02d}" if sequence.isdecimal() else sequence
    if name not in folders:
        raise DataError(f"{path} has no sequence {name}: it holds {', '.join(folders)}.")
    return open_kitti_sequence(path / "sequences" / name, camera)


def open_kitti_sequence(path: Path, camera: int | None = None) -> ImageFiles:
    """One sequence or clip, seen by one of its cameras.

    Args:
        path: folder of the images, ``calib.txt`` and ``times.txt``.
        camera: 0 to 3; by default the left colour camera, else whichever there is.

    Raises:
        DataError: something is missing or malformed.
    """
    camera = find_camera(path, camera, "image_{}")
    images = list_numbered_images(path / f"image_{camera}")
    calibration = read_kitti_calibration(path / "calib.txt")
    size = common_image_size(list(images.values()))
    intrinsics, T_cam0_cam = rectified_camera(calibration, f"P{camera}", size)
    frame_ids = np.array(list(images))
    times_path = path / "times.txt"
    stamps_ns = rows_of_frames(times_path, read_times(times_path), frame_ids)
    poses = _read_poses(path, frame_ids, stamps_ns, T_cam0_cam)
    files = [
        ImageFile(image, frame_id, int(stamp_ns), poses.get(frame_id))
        for (frame_id, image), stamp_ns in zip(images.items(), stamps_ns, strict=True)
    ]
    return ImageFiles(path.name, files, intrinsics, T_cam0_cam, ground_truth=trajectory_of(files))


def find_camera(path: Path, camera: int | None, folder_format: str) -> int:
    """The camera asked for, or the preferred one of those recorded; DataError where it is not there."""
    recorded = [c for c in CAMERAS if (path / folder_format.format(c)).is_dir()]
    if not recorded:
        raise DataError(f"{path} holds no folder {folder_format.format(2)} of images.")
    if camera is None:
        return recorded[0]
    if camera not in recorded:
        raise DataError(
            f"{path} has no images of camera {camera}: there is {', '.join(map(str, sorted(recorded)))}."
        )
    return camera


def trajectory_of(files: list[ImageFile]) -> Trajectory | None:
    """The ground truth of the files that have one."""
    known = [(f.T_world_cam, f.stamp_ns, f.frame_id) for f in files if f.T_world_cam is not None]
    if not known:
        return None
    poses, stamps_ns, frame_ids = zip(*known, strict=True)
    return Trajectory(np.stack(poses), np.array(stamps_ns), np.array(frame_ids))


def rows_of_frames(path: Path, rows: npt.NDArray[T], frame_ids: npt.NDArray[np.int64]) -> npt.NDArray[T]:
    """The rows of a file with one line a frame that belong to the frames there are."""
    if len(rows) == len(frame_ids):
        return rows
    if len(rows) > frame_ids[-1]:  # images are missing: line i is frame i of the whole sequence
        return rows[frame_ids]
    raise DataError(
        f"{path} has {len(rows)} lines for {len(frame_ids)} images, the last one {frame_ids[-1]}."
    )


def _read_poses(
    path: Path,
    frame_ids: npt.NDArray[np.int64],
    stamps_ns: npt.NDArray[np.int64],
    T_cam0_cam: npt.NDArray[np.float64],
) -> dict[int, npt.NDArray[np.float64]]:
    """Frame number -> T_world_cam (4, 4) of the frames whose pose is known."""
    for poses_path in (path / "poses.txt", path.parent.parent / "poses" / f"{path.name}.txt"):
        if poses_path.is_file():
            trajectory = read_trajectory(poses_path)
            if trajectory.frames is None or trajectory.frames[-1] != len(trajectory) - 1:
                raise DataError(f"{poses_path}, line 1: 12 numbers expected, a pose of 3x4.")
            T_world_cam0 = rows_of_frames(poses_path, trajectory.poses, frame_ids)
            return dict(zip(frame_ids.tolist(), T_world_cam0 @ T_cam0_cam, strict=True))
    tum_path = path / "ground_truth_tum.txt"
    if not tum_path.is_file():
        return {}
    trajectory = read_trajectory(tum_path)
    if trajectory.stamps_ns is None:
        raise DataError(f"{tum_path}, line 1: 8 columns expected, the first one a stamp.")
    nearest = np.abs(trajectory.stamps_ns[None] - stamps_ns[:, None]).argmin(axis=1)
    apart_ns = np.abs(trajectory.stamps_ns[nearest] - stamps_ns)
    return {
        frame_id: trajectory.poses[row]
        for frame_id, row, apart in zip(frame_ids.tolist(), nearest, apart_ns, strict=True)
        if apart <= STAMP_TOLERANCE_NS
    }
