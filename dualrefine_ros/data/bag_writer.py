"""Recordings written as ROS 2 bags, without ROS, by the package rosbags.

The robot is one camera on a stick: ``base_link`` lies on the ground below the rig's first camera, x
forward, y left, z up (REP-103), and ``odom`` is where ``base_link`` was when the ground truth began.
"""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import cv2
import numpy as np
import numpy.typing as npt

from dualrefine_ros.data.bag_topics import (
    CAMERA_INFO,
    COMPRESSED_IMAGE,
    GROUND_TRUTH_TOPIC,
    IMAGE,
    ODOMETRY,
    TF_MESSAGE,
)
from dualrefine_ros.data.image_encoding import RgbImage
from dualrefine_ros.errors import DataError
from dualrefine_ros.frame import NANOSECONDS, Frame, Intrinsics
from dualrefine_ros.geometry.quaternion import quaternion_from_rotation

if TYPE_CHECKING:
    from rosbags.interfaces import Connection, Qos
    from rosbags.rosbag2 import Writer

FloatArray = npt.NDArray[np.float64]

STORAGES = ("mcap", "sqlite3")
BAG_VERSIONS = (8, 9)  # 8: read by Humble; 9: as Jazzy records, which Humble does not read
ODOM_FRAME, BASE_FRAME, CAMERA_FRAME = "odom", "base_link", "camera_optical_frame"
UNKNOWN_VARIANCE = 1e6  # of the velocities, which no ground truth gives


@dataclass(frozen=True)
class BagConfig:
    """What a bag is to look like."""

    storage: Literal["mcap", "sqlite3"] = "mcap"
    version: Literal[8, 9] = 8  # of rosbag2's metadata, see BAG_VERSIONS
    image_topic: str = "/camera/image_rect"  # compressed images go to ".../compressed" below it
    jpeg_quality: int | None = None  # None: raw images, every bit kept; else JPEG, 1 to 100


@contextmanager
def new_bag(path: Path, T_base_cam: FloatArray, config: BagConfig) -> Iterator[BagWriter]:
    """A bag that appears at ``path`` when the block is left without an error, complete, or not at all.

    Until then it is in ``<path>.partial``, which a later run replaces.

    Args:
        path: the bag's folder; must not exist.
        T_base_cam: (4, 4) pose of the camera on the robot.
        config: see :class:`BagConfig`.

    Raises:
        DataError: something is at ``path``, it cannot be written, or rosbags is not installed.
    """
    try:
        from rosbags.rosbag2 import StoragePlugin, Writer
    except ImportError:
        raise DataError("ROS 2 bags are written by the package rosbags: pip install rosbags.") from None
    if path.exists():
        raise DataError(f"{path} exists already: remove it, or write elsewhere.")
    partial = path.with_name(f"{path.name}.partial")
    unfinished = partial / path.name  # files in a bag are named after its folder
    try:
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        plugin = {"mcap": StoragePlugin.MCAP, "sqlite3": StoragePlugin.SQLITE3}[config.storage]
        with Writer(unfinished, version=config.version, storage_plugin=plugin) as writer:
            yield BagWriter(writer, T_base_cam, config)
        unfinished.rename(path)
    except (OSError, sqlite3.Error) as error:
        raise DataError(f"{path} cannot be written: {getattr(error, 'strerror', error)}.") from None
    finally:
        shutil.rmtree(partial, ignore_errors=True)


class BagWriter:
    """Writes frames as messages; see :func:`new_bag`."""

    def __init__(self, writer: Writer, T_base_cam: FloatArray, config: BagConfig) -> None:
        from rosbags.typesys import Stores, get_typestore

        self._writer = writer
        self._store = get_typestore(Stores.ROS2_HUMBLE)
        self._types: dict[str, Any] = self._store.types
        self._T_base_cam = T_base_cam
        self._config = config
        self._T_odom_world: FloatArray | None = None  # known from the first ground-truth pose on
        self._connections: dict[str, Connection] = {}

    def write(self, frame: Frame, stamp_ns: int, jpeg: bytes | None = None) -> None:
        """Append a frame: camera_info, ground truth where known, image.

        Args:
            frame: image and ground truth.
            stamp_ns: stamp of the messages.
            jpeg: the frame's image as a JPEG file; encoded here where it is None.
        """
        if not self._connections:
            self._write_static_transform(stamp_ns)
        namespace = self._config.image_topic.rpartition("/")[0]
        self._put(
            f"{namespace}/camera_info", CAMERA_INFO, stamp_ns, self._camera_info(frame.intrinsics, stamp_ns)
        )
        if frame.T_world_cam is not None:
            self._put(GROUND_TRUTH_TOPIC, ODOMETRY, stamp_ns, self._odometry(frame.T_world_cam, stamp_ns))
        if self._config.jpeg_quality is None:
            self._put(self._config.image_topic, IMAGE, stamp_ns, self._image(frame.image, stamp_ns))
        else:
            topic = f"{self._config.image_topic}/compressed"
            self._put(topic, COMPRESSED_IMAGE, stamp_ns, self._compressed(frame.image, jpeg, stamp_ns))

    def _put(self, topic: str, msgtype: str, stamp_ns: int, message: Any, latched: bool = False) -> None:
        if topic not in self._connections:
            self._connections[topic] = self._writer.add_connection(
                topic, msgtype, typestore=self._store, offered_qos_profiles=[_qos(latched)]
            )
        data = self._store.serialize_cdr(message, msgtype)
        self._writer.write(self._connections[topic], stamp_ns, data)

    def _new(self, msgtype: str, **fields: Any) -> Any:
        return self._types[msgtype](**fields)

    def _header(self, frame_id: str, stamp_ns: int) -> Any:
        seconds, nanoseconds = divmod(stamp_ns, NANOSECONDS)
        stamp = self._new("builtin_interfaces/msg/Time", sec=seconds, nanosec=nanoseconds)
        return self._new("std_msgs/msg/Header", stamp=stamp, frame_id=frame_id)

    def _image(self, image: RgbImage, stamp_ns: int) -> Any:
        # gray recordings keep their size; and three equal channels come back from mono8 bit for bit
        pixels = image[..., :1] if _is_gray(image) else image
        height, width, channels = pixels.shape
        return self._new(
            IMAGE,
            header=self._header(CAMERA_FRAME, stamp_ns),
            height=height,
            width=width,
            encoding="mono8" if channels == 1 else "rgb8",
            is_bigendian=0,
            step=width * channels,
            data=np.ascontiguousarray(pixels).reshape(-1),
        )

    def _compressed(self, image: RgbImage, jpeg: bytes | None, stamp_ns: int) -> Any:
        gray = _is_gray(image)
        if jpeg is None:
            pixels = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY if gray else cv2.COLOR_RGB2BGR)
            quality = [cv2.IMWRITE_JPEG_QUALITY, self._config.jpeg_quality or 0]
            jpeg = cv2.imencode(".jpg", pixels, quality)[1].tobytes()
        return self._new(
            COMPRESSED_IMAGE,
            header=self._header(CAMERA_FRAME, stamp_ns),
            # image_transport's words: what subscribers shall get; how it is compressed
            format="mono8; jpeg compressed mono8" if gray else "rgb8; jpeg compressed bgr8",
            data=np.frombuffer(jpeg, np.uint8),
        )

    def _camera_info(self, intrinsics: Intrinsics, stamp_ns: int) -> Any:
        K = intrinsics.matrix
        return self._new(
            CAMERA_INFO,
            header=self._header(CAMERA_FRAME, stamp_ns),
            height=intrinsics.height,
            width=intrinsics.width,
            distortion_model="plumb_bob",
            d=np.zeros(5),
            k=K.reshape(-1),
            r=np.eye(3).reshape(-1),
            p=np.column_stack([K, np.zeros(3)]).reshape(-1),
            binning_x=0,
            binning_y=0,
            roi=self._new(
                "sensor_msgs/msg/RegionOfInterest",
                x_offset=0,
                y_offset=0,
                height=0,
                width=0,
                do_rectify=False,
            ),
        )

    def _odometry(self, T_world_cam: FloatArray, stamp_ns: int) -> Any:
        T_cam_base = np.linalg.inv(self._T_base_cam)
        if self._T_odom_world is None:
            self._T_odom_world = np.linalg.inv(T_world_cam @ T_cam_base)
        T_odom_base = self._T_odom_world @ T_world_cam @ T_cam_base
        zero = self._new("geometry_msgs/msg/Vector3", x=0.0, y=0.0, z=0.0)
        return self._new(
            ODOMETRY,
            header=self._header(ODOM_FRAME, stamp_ns),
            child_frame_id=BASE_FRAME,
            pose=self._new(
                "geometry_msgs/msg/PoseWithCovariance",
                pose=self._new(
                    "geometry_msgs/msg/Pose",
                    position=self._vector("Point", T_odom_base),
                    orientation=self._quaternion(T_odom_base),
                ),
                covariance=np.zeros(36),
            ),
            twist=self._new(
                "geometry_msgs/msg/TwistWithCovariance",
                twist=self._new("geometry_msgs/msg/Twist", linear=zero, angular=zero),
                covariance=UNKNOWN_VARIANCE * np.eye(6).reshape(-1),
            ),
        )

    def _write_static_transform(self, stamp_ns: int) -> None:
        transform = self._new(
            "geometry_msgs/msg/TransformStamped",
            header=self._header(BASE_FRAME, stamp_ns),
            child_frame_id=CAMERA_FRAME,
            transform=self._new(
                "geometry_msgs/msg/Transform",
                translation=self._vector("Vector3", self._T_base_cam),
                rotation=self._quaternion(self._T_base_cam),
            ),
        )
        self._put(
            "/tf_static", TF_MESSAGE, stamp_ns, self._new(TF_MESSAGE, transforms=[transform]), latched=True
        )

    def _vector(self, name: str, T: FloatArray) -> Any:
        x, y, z = T[:3, 3].tolist()
        return self._new(f"geometry_msgs/msg/{name}", x=x, y=y, z=z)

    def _quaternion(self, T: FloatArray) -> Any:
        x, y, z, w = quaternion_from_rotation(T[:3, :3]).tolist()
        return self._new("geometry_msgs/msg/Quaternion", x=x, y=y, z=z, w=w)


def _is_gray(image: RgbImage) -> bool:
    return bool((image[..., 0] == image[..., 1]).all() and (image[..., 0] == image[..., 2]).all())


def _qos(latched: bool) -> Qos:
    """Reliable; latched means transient local, so that listeners that start later still hear it."""
    from rosbags.interfaces import Qos, QosDurability, QosHistory, QosLiveliness, QosReliability, QosTime

    forever = QosTime(9223372036, 854775807)  # int64 nanoseconds, as rosbag2 records "no limit"
    return Qos(
        history=QosHistory.KEEP_LAST,
        depth=1 if latched else 10,
        reliability=QosReliability.RELIABLE,
        durability=QosDurability.TRANSIENT_LOCAL if latched else QosDurability.VOLATILE,
        deadline=forever,
        lifespan=forever,
        liveliness=QosLiveliness.AUTOMATIC,
        liveliness_lease_duration=forever,
        avoid_ros_namespace_conventions=False,
    )
