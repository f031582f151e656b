"""Laser scans of KITTI's Velodyne HDL-64E, and the depth maps they give in a camera.

Velodyne axes: x forward, y left, z up (Geiger et al., "Vision meets Robotics: The KITTI Dataset", 2013).
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt

from dualrefine_ros.errors import DataError

POINT_BYTES = 16  # x, y, z, reflectance: four float32


def load_scan(path: Path) -> npt.NDArray[np.float32]:
    """A scan as (N, 4) float32: x, y, z in metres in velodyne axes, reflectance.

    Raises:
        DataError: the file is missing, empty or cut short.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}.") from None
    if not data or len(data) % POINT_BYTES:
        raise DataError(f"{path} is cut short: its {len(data)} bytes are no whole number of points.")
    return np.frombuffer(data, "<f4").reshape(-1, 4).astype(np.float32)


def project_velodyne(
    points: npt.NDArray[np.floating],
    T_cam_velo: npt.NDArray[np.floating],
    K: npt.NDArray[np.floating],
    shape: tuple[int, int],
    depths: npt.NDArray[np.floating] | None = None,
) -> npt.NDArray[np.float32]:
    """Depth map of a scan in a camera; where several points fall into a pixel the nearest one wins.

    A point at image coordinates (u, v) goes to pixel (round(u) - 1, round(v) - 1), rounding halves to
    even: the convention of the Eigen protocol's ground truth (Eigen et al. 2014), whose MATLAB pixels
    count from 1. Only points ahead of both scanner and camera count.

    Args:
        points: (N, 3 or 4) in velodyne axes.
        T_cam_velo: (4, 4), maps them to the axes of the rectified camera, or of camera 0 with ``K`` (3, 4).
        K: (3, 3) camera matrix, or (3, 4) projection matrix.
        shape: (H, W) of the map.
        depths: (N,) values to write in place of the depth along the optical axis. The Eigen figures of the
            literature are computed with the distance ahead of the scanner, ``points[:, 0]``.

    Returns:
        (H, W) float32 metres, NaN where there is no point.
    """
    height, width = shape
    P = np.zeros((3, 4))
    P[:, : K.shape[1]] = K
    X = np.column_stack([points[:, :3], np.ones(len(points))]).astype(np.float64)
    x = X @ (P @ T_cam_velo).T
    ahead = (points[:, 0] >= 0) & (x[:, 2] > 0)
    x = x[ahead]
    z = x[:, 2] if depths is None else depths[ahead]
    u, v = np.round(x[:, :2] / x[:, 2:]).T - 1
    inside = (u >= 0) & (u < width) & (v >= 0) & (v < height)
    depth = np.full(shape, np.inf, np.float32)
    np.minimum.at(depth, (v[inside].astype(int), u[inside].astype(int)), z[inside].astype(np.float32))
    depth[np.isinf(depth)] = np.nan
    return depth
