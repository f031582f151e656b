"""Depth and confidence maps as messages: images by REP-118, and an organised, coloured point cloud."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from sensor_msgs.msg import Image, PointCloud2, PointField
from std_msgs.msg import Header

from dualrefine_ros.frame import Frame
from dualrefine_ros.ros.conversions import append_bytes

MILLIMETRES = 1000.0
_LONGEST = 65535  # millimetres that fit into 16 bits


def depth_image(depth: npt.NDArray[np.float32], header: Header) -> Image:
    """A depth map (H, W) in metres as 32FC1, NaN where there is no value."""
    least, most = (reduce(depth, axis=None, initial=np.nan) for reduce in (np.fmin.reduce, np.fmax.reduce))
    if least <= 0 or most == np.inf:  # else it is copied once, into the message
        depth = np.where((depth <= 0) | (depth == np.inf), np.float32(np.nan), depth)
    return _image(depth.astype("<f4", copy=False), "32FC1", header)


def depth_image_16u(depth: npt.NDArray[np.float32], header: Header) -> Image:
    """A depth map (H, W) in metres as 16UC1 in millimetres; 0 where there is no value, or above 65.535 m."""
    millimetres = np.nan_to_num(np.rint(depth * MILLIMETRES), nan=0.0, posinf=0.0, neginf=0.0)
    fits = (millimetres > 0) & (millimetres <= _LONGEST)
    return _image(np.where(fits, millimetres, 0).astype("<u2"), "16UC1", header)


def confidence_image(confidence: npt.NDArray[np.float32], header: Header) -> Image:
    """A map (H, W) in [0, 1] as 32FC1."""
    return _image(confidence.astype("<f4"), "32FC1", header)


def point_cloud(depth: npt.NDArray[np.float32], frame: Frame, header: Header, stride: int = 1) -> PointCloud2:
    """The points (x, y, z, rgb) that a depth map (H, W) shows, as rows and columns, NaN where there is none.

    Args:
        depth: of the frame, metres.
        frame: gives colours and intrinsics.
        header: names the camera's optical frame, which the points are in.
        stride: keep every so manieth row and column.
    """
    z = depth[::stride, ::stride]
    z = np.where(np.isfinite(z) & (z > 0), z, np.float32(np.nan))
    height, width = z.shape
    K = frame.intrinsics
    u = (np.arange(width, dtype=np.float32) * stride - K.cx) / K.fx
    v = (np.arange(height, dtype=np.float32) * stride - K.cy) / K.fy
    points = np.empty((height, width, 4), "<f4")
    points[..., 0], points[..., 1], points[..., 2] = z * u, z * v[:, None], z
    red, green, blue = np.moveaxis(frame.image[::stride, ::stride].astype("<u4"), 2, 0)
    points.view("<u4")[..., 3] = red << 16 | green << 8 | blue  # as PCL packs it
    fields = [
        PointField(name=name, offset=4 * number, datatype=PointField.FLOAT32, count=1)
        for number, name in enumerate(("x", "y", "z", "rgb"))
    ]
    message = PointCloud2(
        header=header,
        height=height,
        width=width,
        fields=fields,
        is_bigendian=False,
        point_step=16,
        row_step=16 * width,
        is_dense=False,
    )
    append_bytes(message.data, points)
    return message


def _image(values: npt.NDArray[np.generic], encoding: str, header: Header) -> Image:
    height, width = values.shape
    message = Image(
        header=header,
        height=height,
        width=width,
        encoding=encoding,
        is_bigendian=0,
        step=values.itemsize * width,
    )
    append_bytes(message.data, values)
    return message
