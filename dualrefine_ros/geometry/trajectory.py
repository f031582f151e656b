"""A trajectory, and the two text formats it is exchanged in.

- TUM: ``stamp tx ty tz qx qy qz qw`` a line, stamps in seconds (``#`` starts a comment).
- KITTI: the first three rows of a pose, row by row, 12 numbers a line, line i being frame i; with 13
  numbers the first one is the frame number, so that frames may be missing.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from decimal import Decimal, InvalidOperation
from pathlib import Path

import numpy as np
import numpy.typing as npt

from dualrefine_ros.errors import DataError
from dualrefine_ros.frame import NANOSECONDS
from dualrefine_ros.geometry.quaternion import quaternion_from_rotation, rotation_from_quaternion
from dualrefine_ros.geometry.text_file import read_text

TUM_COLUMNS = 8
KITTI_COLUMNS = 12
ROTATION_TOLERANCE = 0.01  # of R^T R to the identity: text files carry few digits, a Sim(3) pose is far off


@dataclass(frozen=True)
class Trajectory:
    """Poses of one camera (or body) in one fixed frame, in the order of time.

    Args:
        poses: (N, 4, 4) float64 ``T_world_cam`` in metres.
        stamps_ns: (N,) int64 nanoseconds, increasing; None where only frame numbers are known.
        frames: (N,) int64 frame numbers, increasing; None where only stamps are known.

    Raises:
        DataError: lengths differ, neither stamps nor frame numbers are given, or they do not increase.
    """

    poses: npt.NDArray[np.float64]
    stamps_ns: npt.NDArray[np.int64] | None = None
    frames: npt.NDArray[np.int64] | None = None

    def __post_init__(self) -> None:
        if self.poses.ndim != 3 or self.poses.shape[1:] != (4, 4):
            raise DataError(f"A trajectory needs poses of shape (N, 4, 4), not {self.poses.shape}.")
        if self.stamps_ns is None and self.frames is None:
            raise DataError("A trajectory needs stamps or frame numbers beside its poses.")
        for name, keys in (("stamps", self.stamps_ns), ("frame numbers", self.frames)):
            if keys is None:
                continue
            if keys.shape != (len(self.poses),):
                raise DataError(f"A trajectory has {len(self.poses)} poses but {keys.size} {name}.")
            if np.any(np.diff(keys) <= 0):
                row = int(np.argmax(np.diff(keys) <= 0)) + 1
                raise DataError(f"The {name} of a trajectory must increase, number {row} does not.")

    def __len__(self) -> int:
        return len(self.poses)

    def __getitem__(self, selection: slice | npt.NDArray[np.integer]) -> Trajectory:
        """The poses of a slice or of an increasing index array."""
        stamps_ns = None if self.stamps_ns is None else self.stamps_ns[selection]
        frames = None if self.frames is None else self.frames[selection]
        return Trajectory(self.poses[selection], stamps_ns, frames)

    @property
    def positions(self) -> npt.NDArray[np.float64]:
        """(N, 3) positions in metres."""
        return self.poses[:, :3, 3]

    @property
    def stamps(self) -> npt.NDArray[np.float64]:
        """(N,) stamps in seconds.

        Raises:
            DataError: the trajectory has frame numbers only.
        """
        if self.stamps_ns is None:
            raise DataError("This trajectory has frame numbers but no stamps: give the times of its frames.")
        return self.stamps_ns / NANOSECONDS

    def distances(self) -> npt.NDArray[np.float64]:
        """(N,) metres travelled from the first pose to each."""
        steps = np.linalg.norm(np.diff(self.positions, axis=0), axis=1)
        return np.concatenate([np.zeros(min(1, len(self))), np.cumsum(steps)])

    def relative_to_first(self) -> Trajectory:
        """The same motion with the first pose as the fixed frame."""
        return replace(self, poses=np.linalg.inv(self.poses[0]) @ self.poses)


def read_trajectory(path: str | Path) -> Trajectory:
    """Read a TUM (8 columns) or KITTI (12, or 13 with the frame number) file, told apart by the columns.

    Raises:
        DataError: the file is missing, holds no pose, or a line is malformed; names file and line.
    """
    path = Path(path)
    rows = _read_rows(path)
    if not rows:
        raise DataError(f"{path} holds no pose.")
    columns = len(rows[0][1])
    if columns not in (TUM_COLUMNS, KITTI_COLUMNS, KITTI_COLUMNS + 1):
        raise DataError(
            f"{path}, line {rows[0][0]}: {columns} columns; a TUM trajectory has 8, a KITTI one 12, "
            "or 13 with the frame number."
        )
    for line, fields in rows:
        if len(fields) != columns:
            raise DataError(
                f"{path}, line {line}: {len(fields)} columns where the lines before have {columns}."
            )
    keys_of = {TUM_COLUMNS: _parse_stamp, KITTI_COLUMNS: None, KITTI_COLUMNS + 1: _parse_frame}[columns]
    keys = np.arange(len(rows)) if keys_of is None else _parse_keys(path, rows, keys_of)
    numbers = _parse_numbers(
        path, [(line, fields if keys_of is None else fields[1:]) for line, fields in rows]
    )
    lines = [line for line, _ in rows]
    if columns == TUM_COLUMNS:
        return Trajectory(_poses_from_tum(path, lines, numbers), stamps_ns=keys)
    return Trajectory(_poses_from_kitti(path, lines, numbers), frames=keys)


def read_times(path: str | Path) -> npt.NDArray[np.int64]:
    """Read a KITTI ``times.txt``, seconds a line -> (N,) int64 nanoseconds.

    Raises:
        DataError: the file is missing, empty, or a line is no time or does not increase.
    """
    path = Path(path)
    rows = _read_rows(path)
    if not rows:
        raise DataError(f"{path} holds no time.")
    for line, fields in rows:
        if len(fields) != 1:
            raise DataError(
                f"{path}, line {line}: {len(fields)} columns where one time in seconds is expected."
            )
    return _parse_keys(path, rows, _parse_stamp)


def write_tum(path: str | Path, trajectory: Trajectory) -> None:
    """Write ``stamp tx ty tz qx qy qz qw`` lines; stamps keep every nanosecond.

    Raises:
        DataError: the trajectory has no stamps.
    """
    if trajectory.stamps_ns is None:
        raise DataError(f"{path}: a TUM trajectory needs stamps, this one has frame numbers only.")
    quaternions = quaternion_from_rotation(trajectory.poses[:, :3, :3])
    with open(path, "w", encoding="ascii") as file:
        file.write("# stamp[s] tx ty tz[m] qx qy qz qw\n")
        for stamp_ns, pose in zip(
            trajectory.stamps_ns, np.hstack([trajectory.positions, quaternions]), strict=True
        ):
            seconds, nanoseconds = divmod(int(stamp_ns), NANOSECONDS)
            file.write(f"{seconds}.{nanoseconds:09d} {' '.join(f'{v:.9f}' for v in pose)}\n")


def write_kitti(path: str | Path, trajectory: Trajectory) -> None:
    """Write 12 numbers a line; with the frame number before them unless the frames are 0, 1, 2, ..."""
    numbers = range(len(trajectory)) if trajectory.frames is None else trajectory.frames.tolist()
    contiguous = all(number == row for row, number in enumerate(numbers))
    with open(path, "w", encoding="ascii") as file:
        for number, pose in zip(numbers, trajectory.poses[:, :3].reshape(-1, KITTI_COLUMNS), strict=True):
            file.write(("" if contiguous else f"{number} ") + " ".join(f"{v:.9e}" for v in pose) + "\n")


_Rows = list[tuple[int, list[str]]]  # (line number, fields) of the lines that hold something


def _read_rows(path: Path) -> _Rows:
    lines = (
        (number, line.split("#", 1)[0].replace(",", " ").split())
        for number, line in enumerate(read_text(path).splitlines(), 1)
    )
    return [(number, fields) for number, fields in lines if fields]


def _parse_stamp(field: str) -> int:
    return int((Decimal(field) * NANOSECONDS).to_integral_value())


def _parse_frame(field: str) -> int:
    number = Decimal(field)  # some tools write the frame number as a float
    if number != number.to_integral_value():
        raise ValueError
    return int(number)


def _parse_keys(path: Path, rows: _Rows, parse: Callable[[str], int]) -> npt.NDArray[np.int64]:
    name = "frame number" if parse is _parse_frame else "stamp"
    keys: list[np.int64] = []
    for line, fields in rows:
        try:
            keys.append(np.int64(parse(fields[0])))
        except (InvalidOperation, ValueError, OverflowError):
            raise DataError(f"{path}, line {line}: '{fields[0]}' is not a {name}.") from None
        if len(keys) > 1 and keys[-1] <= keys[-2]:
            raise DataError(f"{path}, line {line}: the {name} {fields[0]} is not after the one before.")
    return np.array(keys)


def _parse_numbers(path: Path, rows: _Rows) -> npt.NDArray[np.float64]:
    numbers = np.empty((len(rows), len(rows[0][1])))
    for row, (line, fields) in enumerate(rows):
        try:
            numbers[row] = [float(field) for field in fields]
        except ValueError as error:
            raise DataError(f"{path}, line {line}: {error}.") from None
        if not np.isfinite(numbers[row]).all():
            raise DataError(f"{path}, line {line}: a number is not finite.")
    return numbers


def _poses_from_tum(
    path: Path, lines: list[int], numbers: npt.NDArray[np.float64]
) -> npt.NDArray[np.float64]:
    lengths = np.linalg.norm(numbers[:, 3:], axis=1)
    if np.any(np.abs(lengths - 1) > ROTATION_TOLERANCE):
        line = lines[int(np.argmax(np.abs(lengths - 1) > ROTATION_TOLERANCE))]
        raise DataError(f"{path}, line {line}: the quaternion (columns 5 to 8) does not have length 1.")
    poses = np.tile(np.eye(4), (len(numbers), 1, 1))
    poses[:, :3, :3] = rotation_from_quaternion(numbers[:, 3:])
    poses[:, :3, 3] = numbers[:, :3]
    return poses


def _poses_from_kitti(
    path: Path, lines: list[int], numbers: npt.NDArray[np.float64]
) -> npt.NDArray[np.float64]:
    poses = np.tile(np.eye(4), (len(numbers), 1, 1))
    poses[:, :3] = numbers.reshape(-1, 3, 4)
    R = poses[:, :3, :3]
    deviation = np.abs(np.swapaxes(R, 1, 2) @ R - np.eye(3)).max(axis=(1, 2))
    wrong = (deviation > ROTATION_TOLERANCE) | (np.linalg.det(R) < 0)
    if np.any(wrong):
        line = lines[int(np.argmax(wrong))]
        raise DataError(f"{path}, line {line}: the left 3x3 of the pose is not a rotation matrix.")
    return poses
