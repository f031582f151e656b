"""KITTI raw drives: stamps to the nanosecond, OXTS poses of the right camera, depth."""

from __future__ import annotations

import logging
import math
import shutil
from datetime import datetime, timezone
from pathlib import Path

import cv2
import numpy as np
import pytest

from dualrefine_ros.data.kitti_raw import read_timestamps
from dualrefine_ros.data.source import open_source
from dualrefine_ros.data.velodyne import load_scan, project_velodyne
from dualrefine_ros.errors import DataError

REAL_DATE = Path(__file__).parent / "data" / "kitti_raw" / "2011_09_26"
DRIVE = "2011_09_26_drive_9999_sync"
STEP = 1e-5  # degrees of latitude: 1.113 m


def write_drive(tmp_path: Path, packets: list[tuple[float, ...]], cameras: tuple[int, ...] = (2,)) -> Path:
    """A drive with the real calibration and made (black) images; packets: latitude, longitude, ..., yaw."""
    date = tmp_path / "2011_09_26"
    drive = date / "2011_09_26_drive_0001_sync"
    (drive / "oxts" / "data").mkdir(parents=True)
    for calibration in REAL_DATE.glob("*.txt"):
        shutil.copy(calibration, date)
    for camera in cameras:
        images = drive / f"image_{camera:02d}" / "data"
        images.mkdir(parents=True)
        for i in range(len(packets)):
            cv2.imwrite(str(images / f"{i:010d}.png"), np.zeros((375, 1242), np.uint8))
        stamps = "".join(f"2011-09-26 13:02:{25 + i}.964389{445 + i}\n" for i in range(len(packets)))
        (images.parent / "timestamps.txt").write_text(stamps)
    for i, packet in enumerate(packets):
        numbers = [*packet, *[0.0] * (30 - len(packet))]
        (drive / "oxts" / "data" / f"{i:010d}.txt").write_text(" ".join(map(repr, numbers)))
    return drive


def test_timestamps_keep_their_nanoseconds(tmp_path: Path) -> None:
    path = tmp_path / "timestamps.txt"
    path.write_text("2011-09-26 13:02:25.964389445\n2011-09-26 13:02:26.5\n2011-09-27 00:00:00\n")
    seconds = int(datetime(2011, 9, 26, 13, 2, 25, tzinfo=timezone.utc).timestamp())
    first, second, third = read_timestamps(path).tolist()
    assert first == seconds * 10**9 + 964389445
    assert second - first == 535610555
    assert third == int(datetime(2011, 9, 27, tzinfo=timezone.utc).timestamp()) * 10**9


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("noon", "line 2: 'noon'"),
        ("2011-13-26 13:02:26.0", "line 2"),
        ("2011-09-26 13:02:25.0", "line 2.*not after"),
    ],
)
def test_wrong_timestamps_are_named(tmp_path: Path, line: str, words: str) -> None:
    path = tmp_path / "timestamps.txt"
    path.write_text(f"2011-09-26 13:02:25.964389445\n{line}\n")
    with pytest.raises(DataError, match=words):
        read_timestamps(path)


@pytest.mark.parametrize(
    ("yaw", "d_lat", "d_lon"),
    [
        (0.0, 0.0, STEP / math.cos(math.radians(49))),
        (math.pi / 2, STEP, 0.0),
        (math.pi, 0.0, -STEP / math.cos(math.radians(49))),
    ],
)
def test_driving_ahead_moves_the_camera_along_its_axis(
    tmp_path: Path, yaw: float, d_lat: float, d_lon: float
) -> None:
    """OXTS yaw is 0 towards east and counts anticlockwise; the distance is that on the earth's sphere."""
    packets = [(49.0 + i * d_lat, 8.4 + i * d_lon, 110.0, 0.0, 0.0, yaw) for i in range(3)]
    source = open_source(write_drive(tmp_path, packets))
    positions = source.ground_truth.positions - source.ground_truth.positions[0]
    distance = math.radians(2 * STEP) * 6378137
    assert np.linalg.norm(positions[2]) == pytest.approx(distance, rel=1e-6)
    assert positions[2, 2] == pytest.approx(distance, rel=2e-3)  # the IMU is mounted within 3 degrees
    assert source.ground_truth.stamps_ns.tolist() == [f.stamp_ns for f in source]


def test_turning_left_swings_the_camera_around_the_imu(tmp_path: Path) -> None:
    packets = [(49.0, 8.4, 110.0, 0.0, 0.0, yaw) for yaw in (0.0, math.pi / 2)]
    source = open_source(write_drive(tmp_path, packets, cameras=(0,)))
    T = source[1].T_world_cam
    np.testing.assert_allclose(source[0].T_world_cam, np.eye(4), atol=1e-8)
    np.testing.assert_allclose(T[:3, 2], [-1, 0, 0], atol=0.05)  # looks to where its left was
    # camera 0 sits 0.27 + 0.81 m ahead of the IMU: it swings to the left by that and back by that
    np.testing.assert_allclose(T[:3, 3], [-1.08, 0, -1.08], atol=0.35)


def test_the_nose_rises_by_the_pitch_whatever_yaw_and_roll(tmp_path: Path) -> None:
    """Negative OXTS pitch lifts the nose (y left, right-handed): the camera's axis turns up, to -y."""
    packets = [(49.0, 8.4, 110.0, 0.0, 0.0, 0.0), (49.0, 8.4, 110.0, 0.8, -0.1, 1.2)]
    T = open_source(write_drive(tmp_path, packets))[1].T_world_cam
    assert T[1, 2] == pytest.approx(-math.sin(0.1), abs=0.01)
    assert T[0, 2] == pytest.approx(-math.cos(0.1) * math.sin(1.2), abs=0.02)  # left by the yaw
    assert T[1, 0] == pytest.approx(
        math.cos(0.1) * math.sin(0.8), abs=0.02
    )  # its right side down by the roll


@pytest.mark.parametrize(("camera", "x"), [(1, 0.5371), (2, -0.0600), (3, 0.4731)])
def test_cameras_stand_beside_camera_0(tmp_path: Path, camera: int, x: float) -> None:
    """Offsets in metres measured by the dataset's authors (T_01, T_02, T_03 of the calibration)."""
    source = open_source(write_drive(tmp_path, [(49.0, 8.4, 110.0, 0.0, 0.0, 0.0)], (camera,)))
    np.testing.assert_allclose(source[0].T_world_cam[:3, 3], [x, 0, 0], atol=0.006)


def test_without_oxts_there_is_no_ground_truth() -> None:
    source = open_source(REAL_DATE / DRIVE)
    assert source.ground_truth is None
    assert (len(source), source.frame_id(0), source.index_of(5)) == (1, 5, 0)
    frame = source[0]
    assert frame.stamp_ns % 10**10 == 500_000_000  # line 6 of the timestamps
    assert frame.image.shape == (375, 1242, 3)
    assert frame.depth is None


def test_depth_along_the_axis_or_ahead_of_the_scanner() -> None:
    ours = open_source(REAL_DATE / DRIVE, depth="velodyne")[0].depth
    eigen = open_source(REAL_DATE / DRIVE, depth="eigen")[0].depth
    np.testing.assert_array_equal(np.isfinite(ours), np.isfinite(eigen))
    # the scanner is mounted 0.27 m behind the camera
    np.testing.assert_allclose(np.nanmedian(eigen - ours), 0.27, atol=0.02)


def test_depth_in_another_camera_is_what_its_projection_matrix_says(tmp_path: Path) -> None:
    drive = write_drive(tmp_path, [(49.0, 8.4, 110.0)], cameras=(3,))
    scans = drive / "velodyne_points" / "data"
    scans.mkdir(parents=True)
    shutil.copy(REAL_DATE / DRIVE / "velodyne_points" / "data" / "0000000005.bin", scans / "0000000000.bin")
    rows = dict(
        line.split(":", 1)
        for name in ("cam_to_cam", "velo_to_cam")
        for line in (REAL_DATE / f"calib_{name}.txt").read_text().splitlines()
        if "time" not in line
    )
    numbers = {key: np.array(text.split(), float) for key, text in rows.items()}
    T_cam0_velo = np.eye(4)
    T_cam0_velo[:3, :3] = numbers["R"].reshape(3, 3)
    T_cam0_velo[:3, 3] = numbers["T"]
    T_cam0_velo[:3] = numbers["R_rect_00"].reshape(3, 3) @ T_cam0_velo[:3]
    scan = load_scan(scans / "0000000000.bin")
    expected = project_velodyne(scan, T_cam0_velo, numbers["P_rect_03"].reshape(3, 4), (375, 1242))
    depth = open_source(drive, depth="velodyne")[0].depth
    assert np.isfinite(depth).sum() > 3000
    np.testing.assert_allclose(depth, expected, rtol=1e-6)


def test_annotated_depth(tmp_path: Path) -> None:
    drive = write_drive(tmp_path, [(49.0, 8.4, 110.0)] * 2)
    folder = drive / "proj_depth" / "groundtruth" / "image_02"
    folder.mkdir(parents=True)
    stored = np.zeros((375, 1242), np.uint16)
    stored[200, 300] = 20 * 256 + 64
    cv2.imwrite(str(folder / "0000000000.png"), stored)
    source = open_source(drive, depth="annotated")
    assert source[0].depth[200, 300] == 20.25
    assert np.isfinite(source[0].depth).sum() == 1
    assert source[1].depth is None
    cv2.imwrite(str(folder / "0000000001.png"), stored.astype(np.uint8))
    with pytest.raises(DataError, match=r"0000000001\.png is no 16-bit"):
        source[1]


def test_bad_drives(tmp_path: Path, caplog) -> None:
    drive = write_drive(tmp_path, [(49.0, 8.4, 110.0)] * 3)
    with pytest.raises(DataError, match="there is no velodyne depth"):
        open_source(drive, depth="velodyne")
    with pytest.raises(DataError, match="Depth 'lidar' is not known"):
        open_source(drive, depth="lidar")
    cv2.imwrite(str(drive / "image_02" / "data" / "0000000001.png"), np.zeros((370, 1224), np.uint8))
    with caplog.at_level(logging.WARNING):
        source = open_source(drive)
        assert len(list(source)) == 2
    assert source.skipped == 1
    assert "0000000001.png is 1224x370" in caplog.text
    packet = drive / "oxts" / "data" / "0000000002.txt"
    packet.write_text("49.0 8.4 110.0")
    with pytest.raises(DataError, match=r"0000000002\.txt, line 1"):
        open_source(drive)
    calibration = drive.parent / "calib_cam_to_cam.txt"
    text = calibration.read_text()
    calibration.write_text(text.replace("P_rect_02: 7.215377e+02", "P_rect_02: 0.0"))
    with pytest.raises(DataError, match=r"calib_cam_to_cam\.txt, P_rect_02: The focal lengths"):
        open_source(drive)
    calibration.write_text(text.replace("S_rect_02: 1.242000e+03", "S_rect_02: 6.4e+02"))
    with pytest.raises(DataError, match="says 640x375"):
        open_source(drive)
    calibration.unlink()
    with pytest.raises(DataError, match=r"calib_cam_to_cam\.txt does not exist"):
        open_source(drive)
