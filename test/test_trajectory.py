"""Trajectory files: what is written is read back, what is malformed is named by file and line."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from dualrefine_ros.errors import DataError
from dualrefine_ros.geometry.quaternion import quaternion_from_rotation, rotation_from_quaternion
from dualrefine_ros.geometry.trajectory import (
    Trajectory,
    read_times,
    read_trajectory,
    write_kitti,
    write_tum,
)

# a quarter turn about the vertical axis, 5 m to the right and 2 m ahead
QUARTER_TURN = "0 0 -1 5 0 1 0 0 1 0 0 2"
IDENTITY = "1 0 0 0 0 1 0 0 0 0 1 0"


def random_poses(count: int) -> npt.NDArray[np.float64]:
    rng = np.random.default_rng(3)
    poses = np.tile(np.eye(4), (count, 1, 1))
    poses[:, :3, :3] = np.linalg.qr(rng.normal(size=(count, 3, 3)))[0]
    poses[:, :3, :3] *= np.linalg.det(poses[:, :3, :3])[:, None, None]
    poses[:, :3, 3] = rng.normal(scale=50, size=(count, 3))
    return poses


def test_quaternion_of_known_rotations() -> None:
    half = np.sqrt(0.5)
    about_z = np.array([[0.0, -1, 0], [1, 0, 0], [0, 0, 1]])  # 90 degrees: x goes to y
    np.testing.assert_allclose(quaternion_from_rotation(about_z), [0, 0, half, half], atol=1e-12)
    half_turn = np.diag([1.0, -1, -1])  # 180 degrees about x
    np.testing.assert_allclose(np.abs(quaternion_from_rotation(half_turn)), [1, 0, 0, 0], atol=1e-12)
    np.testing.assert_allclose(
        rotation_from_quaternion(np.array([0, 0, 2 * half, 2 * half])), about_z, atol=1e-12
    )


def test_quaternion_agrees_with_opencv() -> None:
    cv2 = pytest.importorskip("cv2")
    for R in random_poses(50)[:, :3, :3]:
        rotation_vector = cv2.Rodrigues(np.ascontiguousarray(R))[0].ravel()
        angle = np.linalg.norm(rotation_vector)
        expected = [*np.sin(angle / 2) * rotation_vector / angle, np.cos(angle / 2)]
        np.testing.assert_allclose(quaternion_from_rotation(R), expected, atol=1e-7)
        np.testing.assert_allclose(rotation_from_quaternion(np.array(expected)), R, atol=1e-7)


def test_tum_round_trip_keeps_every_nanosecond(tmp_path: Path) -> None:
    stamps = np.array([1_700_000_000_123_456_789, 1_700_000_000_123_456_790, 1_700_000_001_000_000_000])
    trajectory = Trajectory(random_poses(3), stamps_ns=stamps)
    write_tum(tmp_path / "t.txt", trajectory)
    read = read_trajectory(tmp_path / "t.txt")
    assert read.frames is None
    np.testing.assert_array_equal(read.stamps_ns, stamps)
    np.testing.assert_allclose(read.poses, trajectory.poses, atol=2e-9)


def test_tum_as_other_programs_write_it(tmp_path: Path) -> None:
    (tmp_path / "t.txt").write_text(
        "# comment\n\n1.5e0 1 2 3 0 0 0 1\r\n2.25 1.0 2.0 4.0 0.0 0.0 0.70710678 0.70710678\n"
    )
    read = read_trajectory(tmp_path / "t.txt")
    np.testing.assert_array_equal(read.stamps_ns, [1_500_000_000, 2_250_000_000])
    np.testing.assert_allclose(read.positions, [[1, 2, 3], [1, 2, 4]])
    np.testing.assert_allclose(read.poses[1, :3, :3], [[0, -1, 0], [1, 0, 0], [0, 0, 1]], atol=1e-8)


def test_kitti_with_12_columns_counts_lines(tmp_path: Path) -> None:
    (tmp_path / "k.txt").write_text(f"{IDENTITY}\n{QUARTER_TURN}\n")
    read = read_trajectory(tmp_path / "k.txt")
    assert read.stamps_ns is None
    np.testing.assert_array_equal(read.frames, [0, 1])
    np.testing.assert_array_equal(read.poses[1], [[0, 0, -1, 5], [0, 1, 0, 0], [1, 0, 0, 2], [0, 0, 0, 1]])


def test_kitti_with_13_columns_names_frames(tmp_path: Path) -> None:
    (tmp_path / "k.txt").write_text(f"4 {IDENTITY}\n7.0 {QUARTER_TURN}\n")
    np.testing.assert_array_equal(read_trajectory(tmp_path / "k.txt").frames, [4, 7])


@pytest.mark.parametrize(("frames", "columns"), [([0, 1, 2], 12), ([0, 2, 4], 13), ([5, 6, 7], 13)])
def test_kitti_round_trip(tmp_path: Path, frames: list[int], columns: int) -> None:
    trajectory = Trajectory(random_poses(3), frames=np.array(frames))
    write_kitti(tmp_path / "k.txt", trajectory)
    assert len((tmp_path / "k.txt").read_text().splitlines()[0].split()) == columns
    read = read_trajectory(tmp_path / "k.txt")
    np.testing.assert_array_equal(read.frames, frames)
    np.testing.assert_allclose(read.poses, trajectory.poses, rtol=1e-9)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "holds no pose"),
        ("# only a comment\n", "holds no pose"),
        ("1 2 3 4 5 6 7 8 9 10 11\n", "line 1: 11 columns"),
        (f"{IDENTITY}\n\n0 {IDENTITY}\n", "line 3: 13 columns where the lines before have 12"),
        ("0 0 0 0 0 0 0 1\n" + IDENTITY, "line 2: 12 columns"),
        ("0 0 0 0 0 0 0 1\n0 0 0 0 0 0 0 1\n", "line 2: the stamp 0 is not after"),
        (f"3 {IDENTITY}\n2 {IDENTITY}\n", "line 2: the frame number 2 is not after"),
        (f"0.5 {IDENTITY}\n", "line 1: '0.5' is not a frame number"),
        ("soon 0 0 0 0 0 0 1\n", "line 1: 'soon' is not a stamp"),
        ("nan 0 0 0 0 0 0 1\n", "line 1: 'nan' is not a stamp"),
        ("1e30 0 0 0 0 0 0 1\n", "line 1: '1e30' is not a stamp"),
        ("0 0 0 0 0 0 0 0\n", "line 1: the quaternion"),
        ("0 0 zero 0 0 0 0 1\n", "line 1: .*'zero'"),
        ("0 0 nan 0 0 0 0 1\n", "line 1: a number is not finite"),
        (f"{IDENTITY}\n2 0 0 0 0 2 0 0 0 0 2 0\n", "line 2: .* not a rotation"),
        ("1 0 0 0 0 1 0 0 0 0 -1 0\n", "line 1: .* not a rotation"),
    ],
)
def test_malformed_file_is_named_with_its_line(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "bad.txt").write_text(text)
    with pytest.raises(DataError, match=f"bad.txt.*{message}") as caught:
        read_trajectory(tmp_path / "bad.txt")
    assert "\n" not in str(caught.value)


def test_missing_file_folder_and_binary_file(tmp_path: Path) -> None:
    (tmp_path / "binary.txt").write_bytes(b"\xff\xfe\x00\x80")
    for name in ("absent.txt", ".", "binary.txt"):
        with pytest.raises(DataError):
            read_trajectory(tmp_path / name)


def test_times(tmp_path: Path) -> None:
    (tmp_path / "times.txt").write_text("0.000000e+00\n1.036530e-01\n")
    np.testing.assert_array_equal(read_times(tmp_path / "times.txt"), [0, 103_653_000])
    (tmp_path / "times.txt").write_text("0.0\n0.1 0.2\n")
    with pytest.raises(DataError, match="line 2"):
        read_times(tmp_path / "times.txt")


def test_distances_and_first_frame() -> None:
    poses = np.tile(np.eye(4), (3, 1, 1))
    poses[:, :3, 3] = [[1, 1, 1], [1, 1, 4], [5, 1, 4]]
    trajectory = Trajectory(poses, frames=np.arange(3))
    np.testing.assert_allclose(trajectory.distances(), [0, 3, 7])
    np.testing.assert_allclose(trajectory.relative_to_first().positions, [[0, 0, 0], [0, 0, 3], [4, 0, 3]])


def test_a_trajectory_refuses_disorder() -> None:
    with pytest.raises(DataError, match="must increase"):
        Trajectory(random_poses(2), frames=np.array([1, 1]))
    with pytest.raises(DataError, match="2 poses but 3 stamps"):
        Trajectory(random_poses(2), stamps_ns=np.array([1, 2, 3]))
    with pytest.raises(DataError, match="stamps or frame numbers"):
        Trajectory(random_poses(2))
