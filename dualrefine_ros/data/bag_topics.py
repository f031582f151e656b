"""What a ROS 2 bag holds: its reader, its image and camera topics, its static transforms."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from dualrefine_ros.data.image_encoding import SUPPORTED_ENCODINGS
from dualrefine_ros.errors import DataError
from dualrefine_ros.geometry.quaternion import rotation_from_quaternion

if TYPE_CHECKING:
    from rosbags.highlevel import AnyReader
    from rosbags.interfaces import Connection

IMAGE = "sensor_msgs/msg/Image"
COMPRESSED_IMAGE = "sensor_msgs/msg/CompressedImage"
CAMERA_INFO = "sensor_msgs/msg/CameraInfo"
ODOMETRY = "nav_msgs/msg/Odometry"
TF_MESSAGE = "tf2_msgs/msg/TFMessage"

GROUND_TRUTH_TOPIC = "/ground_truth/odometry"


def open_reader(path: Path) -> AnyReader:
    """An open reader of a bag: its folder, with or without ``metadata.yaml``, or one of its files.

    Raises:
        DataError: rosbags is not installed, or the bag is damaged.
    """
    try:
        from rosbags.highlevel import AnyReader, AnyReaderError
        from rosbags.typesys import Stores, get_typestore
    except ImportError:
        raise DataError(
            "ROS 2 bags are read by the package rosbags: install it (pip install rosbags)."
        ) from None
    paths = [path]
    if path.is_dir() and not (path / "metadata.yaml").exists():
        paths = sorted([*path.glob("*.mcap"), *path.glob("*.db3")])
    try:
        # bags of Humble and older do not carry the definitions of their messages
        reader = AnyReader(paths, default_typestore=get_typestore(Stores.ROS2_HUMBLE))
        reader.open()
    except (AnyReaderError, OSError, ValueError, AssertionError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")
        raise DataError(
            f"{path} is no whole ROS 2 bag ({reason}): where its recording was interrupted, "
            "'ros2 bag reindex' or 'mcap recover' may save it."
        ) from None
    return reader


def first_message(reader: AnyReader, connections: Iterable[Connection]) -> Any:
    """The first message on the connections, None where there is none."""
    for connection, _, data in reader.messages(list(connections)):
        return reader.deserialize(data, connection.msgtype)
    return None


def find_image_topic(reader: AnyReader, path: Path) -> str:
    """The only topic of camera images, raw before compressed; DataError where there is none, or several."""
    topics = {
        connection.topic: connection.msgtype
        for connection in reader.connections
        if connection.msgtype in (IMAGE, COMPRESSED_IMAGE) and connection.msgcount
    }
    cameras = [
        topic
        for topic, msgtype in topics.items()
        if (_is_camera_image(reader, topic) if msgtype == IMAGE else topic.rsplit("/", 1)[0] not in topics)
        and not topic.endswith("/compressedDepth")
    ]
    if len(cameras) == 1:
        return cameras[0]
    if cameras:
        choice = ", ".join(sorted(cameras))
        raise DataError(f"{path} has images on several topics, name one with --topic: {choice}.")
    recorded = ", ".join(sorted({connection.topic for connection in reader.connections}))
    raise DataError(f"{path} has no camera images: its topics are {recorded or 'none'}.")


def connections_of(reader: AnyReader, topic: str) -> list[Connection]:
    """The connections with messages on a topic."""
    return [c for c in reader.connections if c.topic == topic and c.msgcount]


def find_camera_info(reader: AnyReader, image_topic: str) -> Any:
    """The first CameraInfo beside an image topic, or the only one in the bag; None where there is none.

    ``/camera/image_raw`` and ``/camera/image_raw/compressed`` go with ``/camera/camera_info``.
    """
    of_info = [c for c in reader.connections if c.msgtype == CAMERA_INFO and c.msgcount]
    namespace = image_topic
    while namespace:
        namespace = namespace.rpartition("/")[0]
        beside = [c for c in of_info if c.topic == f"{namespace}/camera_info"]
        if beside:
            return first_message(reader, beside)
    if len({c.topic for c in of_info}) == 1:
        return first_message(reader, of_info)
    return None


def static_transform(reader: AnyReader, target: str, source: str) -> npt.NDArray[np.float64] | None:
    """T_target_source (4, 4) from ``/tf_static``, None where the frames are not connected there."""
    parents: dict[str, tuple[str, npt.NDArray[np.float64]]] = {}  # child: (parent, T_parent_child)
    connections = [c for c in connections_of(reader, "/tf_static") if c.msgtype == TF_MESSAGE]
    for connection, _, data in reader.messages(connections) if connections else ():
        message: Any = reader.deserialize(data, connection.msgtype)
        for stamped in message.transforms:
            transform = stamped.transform
            parents[_frame(stamped.child_frame_id)] = (
                _frame(stamped.header.frame_id),
                matrix_from_message(transform.translation, transform.rotation),
            )
    to_target, to_source = _ancestors(parents, _frame(target)), _ancestors(parents, _frame(source))
    common = next((frame for frame in to_target if frame in to_source), None)
    if common is None:
        return None
    return np.linalg.inv(to_target[common]) @ to_source[common]


def matrix_from_message(position: Any, orientation: Any) -> npt.NDArray[np.float64]:
    """The (4, 4) transform of a message's position and quaternion, not finite where these are not sound."""
    T = np.eye(4)
    quaternion = np.array([orientation.x, orientation.y, orientation.z, orientation.w], np.float64)
    with np.errstate(invalid="ignore"):  # all zero: nobody has filled it in
        T[:3, :3] = rotation_from_quaternion(quaternion)
    T[:3, 3] = position.x, position.y, position.z
    return T


def _frame(name: str) -> str:
    return name.lstrip("/")  # tf names of old drivers begin with a slash


def _ancestors(
    parents: dict[str, tuple[str, npt.NDArray[np.float64]]], frame: str
) -> dict[str, npt.NDArray[np.float64]]:
    """Ancestor -> T_ancestor_frame of a frame, itself first."""
    T = np.eye(4)
    found = {frame: T}
    while frame in parents:
        frame, T_parent_child = parents[frame]
        if frame in found:  # a loop: the bag's transforms are no tree
            break
        T = T_parent_child @ T
        found[frame] = T
    return found


def _is_camera_image(reader: AnyReader, topic: str) -> bool:
    """Whether images are in an encoding of colour or gray: those of depth or labels are not."""
    message = first_message(reader, connections_of(reader, topic))
    return message is not None and message.encoding in SUPPORTED_ENCODINGS
