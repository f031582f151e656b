"""Laser scans to depth maps: against OpenCV's projection, a loop over points, and a real road."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from dualrefine_ros.data.source import open_source
from dualrefine_ros.data.velodyne import load_scan, project_velodyne
from dualrefine_ros.errors import DataError

DRIVE = Path(__file__).parent / "data" / "kitti_raw" / "2011_09_26" / "2011_09_26_drive_9999_sync"
K = np.array([[30.0, 0, 19.5], [0, 28.0, 14.5], [0, 0, 1]])
SHAPE = (30, 40)
VELO_TO_OPTICAL = np.array([[0.0, -1, 0, 0], [0, 0, -1, 0], [1, 0, 0, 0], [0, 0, 0, 1]])


def point_seen_at(u: float, v: float, depth: float) -> list[float]:
    """Velodyne coordinates (x forward, y left, z up) of what the camera sees at (u, v)."""
    x, y, z = np.linalg.inv(K) @ [u * depth, v * depth, depth]
    return [z, -x, -y]


def test_against_opencv_and_a_loop_over_points() -> None:
    rng = np.random.default_rng(0)
    points = rng.uniform([-5, -20, -8], [40, 20, 8], (4000, 3)).astype(np.float32)
    T_cam_velo = VELO_TO_OPTICAL.copy()
    T_cam_velo[:3, :3] = cv2.Rodrigues(np.array([0.02, -0.03, 0.01]))[0] @ T_cam_velo[:3, :3]
    T_cam_velo[:3, 3] = [0.05, -0.08, -0.27]
    depth = project_velodyne(points, T_cam_velo, K, SHAPE)

    expected = np.full(SHAPE, np.nan)
    rotation = cv2.Rodrigues(np.ascontiguousarray(T_cam_velo[:3, :3]))[0]
    translation = np.ascontiguousarray(T_cam_velo[:3, 3])
    pixels = cv2.projectPoints(points.astype(np.float64), rotation, translation, K, None)[0].reshape(-1, 2)
    for point, (u, v) in zip(points, pixels, strict=True):
        z = float(T_cam_velo[2, :3] @ point + T_cam_velo[2, 3])
        column, row = round(u) - 1, round(v) - 1
        if point[0] < 0 or z <= 0 or not (0 <= column < SHAPE[1] and 0 <= row < SHAPE[0]):
            continue
        if not expected[row, column] < z:
            expected[row, column] = z
    assert np.isfinite(expected).sum() > 300
    np.testing.assert_allclose(depth, expected, rtol=1e-6)
    assert depth.dtype == np.float32


def test_pixel_convention_of_the_eigen_protocol() -> None:
    points = np.array(
        [point_seen_at(10.4, 7.6, 5.0), point_seen_at(0.6, 1.0, 6.0), point_seen_at(0.4, 5, 7.0)]
    )
    depth = project_velodyne(points, VELO_TO_OPTICAL, K, SHAPE)
    assert np.argwhere(np.isfinite(depth)).tolist() == [[0, 0], [7, 9]]  # the third one is off the image
    np.testing.assert_allclose(depth[7, 9], 5.0, rtol=1e-6)


@pytest.mark.parametrize("order", [[0, 1, 2], [2, 1, 0], [1, 0, 2]])
def test_the_nearest_point_wins(order: list[int]) -> None:
    points = np.array([point_seen_at(20, 10, z) for z in (9.0, 4.0, 30.0)])[order]
    assert project_velodyne(points, VELO_TO_OPTICAL, K, SHAPE)[9, 19] == pytest.approx(4.0)


def test_points_behind_do_not_count() -> None:
    behind = -np.array([point_seen_at(20, 10, 5.0)])  # projects to the same pixel
    assert np.isnan(project_velodyne(behind, VELO_TO_OPTICAL, K, SHAPE)).all()
    assert np.isnan(project_velodyne(np.zeros((0, 4)), VELO_TO_OPTICAL, K, SHAPE)).all()
    camera_ahead = VELO_TO_OPTICAL.copy()
    camera_ahead[2, 3] = -6  # between scanner and camera
    between = point_seen_at(20, 10, -1.0)
    between[0] += 6
    assert np.isnan(project_velodyne(np.array([between]), camera_ahead, K, SHAPE)).all()


def test_a_projection_matrix_shifts_by_the_baseline() -> None:
    points = np.array([point_seen_at(20, 10, 5.0)])
    P = np.column_stack([K, K @ [0.5, 0, 0]])  # 0.5 m at 5 m and f = 30: 3 pixels
    assert np.argwhere(np.isfinite(project_velodyne(points, VELO_TO_OPTICAL, P, SHAPE))).tolist() == [[9, 22]]


def test_other_depths_can_be_written() -> None:
    points = np.array([point_seen_at(20, 10, 5.0)])
    depth = project_velodyne(points, VELO_TO_OPTICAL, K, SHAPE, depths=np.array([5.27]))
    assert depth[9, 19] == pytest.approx(5.27)


def test_load_scan(tmp_path: Path) -> None:
    path = tmp_path / "scan.bin"
    np.arange(8, dtype="<f4").tofile(path)
    np.testing.assert_array_equal(load_scan(path), [[0, 1, 2, 3], [4, 5, 6, 7]])
    for data in (b"", bytes(17)):
        path.write_bytes(data)
        with pytest.raises(DataError, match=r"scan\.bin is cut short"):
            load_scan(path)
    with pytest.raises(DataError, match="cannot be read"):
        load_scan(tmp_path / "none.bin")


def test_a_real_road_lies_a_camera_height_below_the_camera() -> None:
    """KITTI's cameras ride 1.65 m above the road: row v of it is f h / (v - cy) metres away."""
    frame = open_source(DRIVE, depth="velodyne")[0]
    K = frame.intrinsics
    road = frame.depth[355:375, 540:680]  # free road before the bumper
    rows = np.arange(355, 375)[:, None] + 1  # the map's pixels count one less than the image's
    heights = road * (rows - K.cy) / K.fy
    assert np.isfinite(road).sum() > 30
    assert np.nanmedian(heights) == pytest.approx(1.65, abs=0.05)
