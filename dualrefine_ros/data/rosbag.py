"""ROS 2 bags (sqlite3 or mcap) without ROS, read by the package rosbags."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator
from functools import cached_property, partial
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from dualrefine_ros.data.bag_topics import (
    COMPRESSED_IMAGE,
    GROUND_TRUTH_TOPIC,
    IMAGE,
    ODOMETRY,
    connections_of,
    find_camera_info,
    find_image_topic,
    first_message,
    matrix_from_message,
    open_reader,
    static_transform,
)
from dualrefine_ros.data.image_encoding import decode_compressed, decode_image
from dualrefine_ros.data.per_process import PerProcess
from dualrefine_ros.data.rectification import (
    CameraCalibration,
    Rectifier,
    calibration_from_camera_info,
    read_camera_yaml,
)
from dualrefine_ros.data.source import Source, check_size
from dualrefine_ros.errors import DataError, InputError, MessageError
from dualrefine_ros.frame import NANOSECONDS, Frame
from dualrefine_ros.geometry.trajectory import Trajectory

log = logging.getLogger(__name__)

STAMP_TOLERANCE_NS = 1_000_000  # between an image and its ground truth


def open_rosbag(
    path: Path,
    topic: str | None = None,
    calibration: str | Path | None = None,
    rectified: bool | None = None,
    ground_truth_topic: str | None = None,
) -> Bag:
    """The images on one topic of a bag, rectified.

    Args:
        path: the bag's folder or a file of it.
        topic: of sensor_msgs Image or CompressedImage; by default the only one.
        calibration: YAML file of ROS's camera_calibration, in place of the bag's camera_info.
        rectified: whether the images are rectified already; by default if "rect" is in the topic's name.
        ground_truth_topic: nav_msgs Odometry, the camera's place on it being known from ``/tf_static``; by
            default ``/ground_truth/odometry`` where there is one.

    Raises:
        DataError: the bag is damaged, or lacks a topic or the calibration.
    """
    return Bag(path, topic, calibration, rectified, ground_truth_topic)


class Bag(Source):
    """See :func:`open_rosbag`. Reading in order is cheap; the first access by index reads the bag once."""

    def __init__(
        self,
        path: Path,
        topic: str | None,
        calibration: str | Path | None,
        rectified: bool | None,
        ground_truth_topic: str | None,
    ) -> None:
        self.name = path.stem
        self._path = path
        self._calibration_path = None if calibration is None else Path(calibration)
        self._reader = PerProcess(partial(open_reader, path))
        reader = self._reader.get()
        self.topic = self._image_topic(topic)
        first = first_message(reader, connections_of(reader, self.topic))
        camera = self._calibration()
        if rectified if rectified is not None else "rect" in self.topic:
            camera = camera.of_rectified_images()
        self.intrinsics = camera.rectified
        self._rectify = None if camera.is_pinhole else Rectifier(camera)
        self._length = sum(connection.msgcount for connection in connections_of(reader, self.topic))
        self.ground_truth = self._ground_truth(ground_truth_topic, first.header.frame_id)

    def __len__(self) -> int:
        return self._length

    def pixel_files(self) -> list[Path]:
        recorded = sorted(self._path.iterdir()) if self._path.is_dir() else [self._path]
        return recorded if self._calibration_path is None else [*recorded, self._calibration_path]

    def __getitem__(self, index: int) -> Frame:
        timestamp, rank = self._index[index]
        reader = self._reader.get()
        messages = reader.messages(connections_of(reader, self.topic), timestamp, timestamp + 1)
        connection, _, data = next(islice(messages, rank, None))
        return self._frame(data, connection.msgtype, timestamp)

    def _readings(self, indices: Iterable[int]) -> Iterator[tuple[int, Callable[[], Frame]]]:
        wanted = iter(indices)
        next_index = next(wanted, None)
        reader = self._reader.get()
        for index, (connection, timestamp, data) in enumerate(
            reader.messages(connections_of(reader, self.topic))
        ):
            if index == next_index:
                yield index, partial(self._frame, data, connection.msgtype, timestamp)
                next_index = next(wanted, None)
            if next_index is None:
                return

    @cached_property
    def _index(self) -> list[tuple[int, int]]:
        """Of every image, its time of recording, and its rank among those of the same time."""
        index: list[tuple[int, int]] = []
        reader = self._reader.get()
        for _, timestamp, _ in reader.messages(connections_of(reader, self.topic)):
            same_time = bool(index) and index[-1][0] == timestamp
            index.append((timestamp, index[-1][1] + 1 if same_time else 0))
        return index

    def _frame(self, data: bytes, msgtype: str, timestamp: int) -> Frame:
        message = self._deserialize(data, msgtype)
        if msgtype == IMAGE:
            image = decode_image(
                message.data,
                message.width,
                message.height,
                message.step,
                message.encoding,
                message.is_bigendian,
            )
        else:
            image = decode_compressed(message.data)
        check_size(image, self.intrinsics, f"An image on {self.topic}")
        if self._rectify is not None:
            image = self._rectify(image)
        stamp_ns = message.header.stamp.sec * NANOSECONDS + message.header.stamp.nanosec
        stamp_ns = stamp_ns or timestamp  # some drivers leave the stamp empty
        return Frame(stamp_ns, image, self.intrinsics, self._pose_at(stamp_ns))

    def _deserialize(self, data: bytes, msgtype: str) -> Any:
        try:
            return self._reader.get().deserialize(data, msgtype)
        except Exception as error:  # rosbags raises whatever the damaged bytes lead to
            raise MessageError(f"A message on {self.topic} is damaged ({error}).") from None

    def _image_topic(self, topic: str | None) -> str:
        reader = self._reader.get()
        if topic is None:
            return find_image_topic(reader, self._path)
        for candidate in (topic, f"{topic}/compressed"):
            connections = connections_of(reader, candidate)
            if connections and connections[0].msgtype in (IMAGE, COMPRESSED_IMAGE):
                return candidate
        recorded = ", ".join(sorted({c.topic for c in reader.connections})) or "none"
        raise DataError(f"{self._path} has no images on {topic}: its topics are {recorded}.")

    def _calibration(self) -> CameraCalibration:
        if self._calibration_path is not None:
            return read_camera_yaml(self._calibration_path)
        info = find_camera_info(self._reader.get(), self.topic)
        if info is None:
            raise DataError(
                f"{self._path} has no camera_info beside {self.topic}: give one with --calibration (YAML, as "
                "ROS's camera_calibration writes it)."
            )
        try:
            return calibration_from_camera_info(info)
        except InputError as error:
            raise DataError(f"{self._path}, camera_info of {self.topic}: {error}") from None

    def _ground_truth(self, topic: str | None, camera_frame: str) -> Trajectory | None:
        """Poses of the camera from odometry of the robot."""
        reader = self._reader.get()
        connections = [
            c for c in connections_of(reader, topic or GROUND_TRUTH_TOPIC) if c.msgtype == ODOMETRY
        ]
        if not connections:
            if topic is not None:
                raise DataError(f"{self._path} has no {ODOMETRY} on {topic}.")
            return None
        odometry = [self._deserialize(data, c.msgtype) for c, _, data in reader.messages(connections)]
        body_frame = odometry[0].child_frame_id
        T_body_cam = static_transform(reader, body_frame, camera_frame)
        if T_body_cam is None or not np.isfinite(T_body_cam).all():
            log.warning(
                "%s: ground truth is left out, /tf_static does not connect %s to %s by sound transforms.",
                self._path,
                body_frame,
                camera_frame,
            )
            return None
        stamps = [o.header.stamp for o in odometry]
        stamps_ns = np.array([stamp.sec * NANOSECONDS + stamp.nanosec for stamp in stamps], np.int64)
        poses = np.stack(
            [matrix_from_message(o.pose.pose.position, o.pose.pose.orientation) for o in odometry]
        )
        sound = np.isfinite(poses).all(axis=(1, 2))
        if not sound.all():
            log.warning("%s: %d poses of the ground truth are not finite.", self._path, (~sound).sum())
        stamps_ns, order = np.unique(stamps_ns[sound], return_index=True)
        return Trajectory(poses[sound][order] @ T_body_cam, stamps_ns) if len(order) else None

    def _pose_at(self, stamp_ns: int) -> np.ndarray | None:
        if self.ground_truth is None or self.ground_truth.stamps_ns is None:
            return None
        apart_ns = np.abs(self.ground_truth.stamps_ns - stamp_ns)
        row = int(apart_ns.argmin())
        return self.ground_truth.poses[row] if apart_ns[row] <= STAMP_TOLERANCE_NS else None
