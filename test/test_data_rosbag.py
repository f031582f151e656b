"""Bags as robots record them: several topics, distorted lenses, empty stamps, damage."""

from __future__ import annotations

import itertools
import logging
import multiprocessing
import os
import pickle
import sqlite3
import sys
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import yaml

from dualrefine_ros.data.per_process import PerProcess
from dualrefine_ros.data.source import open_source
from dualrefine_ros.errors import DataError
from dualrefine_ros.frame import NANOSECONDS

rosbag2 = pytest.importorskip("rosbags.rosbag2")
from rosbags.typesys import Stores, get_typestore  # noqa: E402

STORE = get_typestore(Stores.ROS2_JAZZY)
TYPES: dict[str, Any] = STORE.types
WIDTH, HEIGHT = 32, 24
K = np.array([[40.0, 0, 15.5], [0, 41.0, 11.5], [0, 0, 1]])
START = 1_700_000_000 * NANOSECONDS
STEP = 50_000_000


def header(stamp_ns: int, frame_id: str = "camera") -> Any:
    stamp = TYPES["builtin_interfaces/msg/Time"](sec=stamp_ns // NANOSECONDS, nanosec=stamp_ns % NANOSECONDS)
    return TYPES["std_msgs/msg/Header"](stamp=stamp, frame_id=frame_id)


def image(
    value: int, stamp_ns: int, encoding: str = "mono8", shape: tuple[int, int] = (HEIGHT, WIDTH)
) -> Any:
    size = {"mono8": 1, "16UC1": 2, "rgb8": 3}[encoding]
    return TYPES["sensor_msgs/msg/Image"](
        header=header(stamp_ns),
        height=shape[0],
        width=shape[1],
        encoding=encoding,
        is_bigendian=0,
        step=shape[1] * size,
        data=np.full(shape[0] * shape[1] * size, value, np.uint8),
    )


def compressed(value: int, stamp_ns: int) -> Any:
    data = cv2.imencode(".png", np.full((HEIGHT, WIDTH), value, np.uint8))[1].reshape(-1)
    return TYPES["sensor_msgs/msg/CompressedImage"](header=header(stamp_ns), format="png", data=data)


def camera_info(**changes: Any) -> Any:
    roi = TYPES["sensor_msgs/msg/RegionOfInterest"]
    fields = {
        "header": header(START),
        "height": HEIGHT,
        "width": WIDTH,
        "distortion_model": "plumb_bob",
        "d": np.zeros(5),
        "k": K.reshape(-1),
        "r": np.eye(3).reshape(-1),
        "p": np.column_stack([K, np.zeros(3)]).reshape(-1),
        "binning_x": 0,
        "binning_y": 0,
        "roi": roi(x_offset=0, y_offset=0, height=0, width=0, do_rectify=False),
    }
    return TYPES["sensor_msgs/msg/CameraInfo"](**(fields | changes))


def write_bag(path: Path, messages: list[tuple[str, int, Any]], storage: str = "MCAP") -> Path:
    """(topic, time of recording, message or (type, bytes)) in order."""
    plugin = rosbag2.StoragePlugin[storage]
    with rosbag2.Writer(path, version=9, storage_plugin=plugin) as writer:
        connections = {}
        for topic, timestamp, message in messages:
            msgtype, data = message if isinstance(message, tuple) else (message.__msgtype__, None)
            if topic not in connections:
                connections[topic] = writer.add_connection(topic, msgtype, typestore=STORE)
            data = STORE.serialize_cdr(message, msgtype) if data is None else data
            writer.write(connections[topic], timestamp, data)
    return path


def drive(count: int = 5, topic: str = "/camera/image_raw", info: Any = None) -> list[tuple[str, int, Any]]:
    """The i-th image is of value 10 i, stamped START + i STEP, recorded 7 ms later."""
    messages: list[tuple[str, int, Any]] = []
    for i in range(count):
        stamp = START + i * STEP
        messages.append((f"{topic.rsplit('/', 1)[0]}/camera_info", stamp + 7_000_000, info or camera_info()))
        messages.append((topic, stamp + 7_000_000, image(10 * i, stamp)))
    return messages


def values(frames: Any) -> list[int]:
    return [round(float(frame.image.mean()) / 10) for frame in frames]


@pytest.mark.parametrize("storage", ["MCAP", "SQLITE3"])
def test_in_order_by_index_and_in_another_process(tmp_path: Path, storage: str) -> None:
    source = open_source(write_bag(tmp_path / "bag", drive(), storage))
    assert values(source) == [0, 1, 2, 3, 4]
    assert values(source.frames([1, 4])) == [1, 4]
    assert [f.stamp_ns for f in source] == [START + i * STEP for i in range(5)]
    assert values([source[i] for i in (3, 0, -1, 2)]) == [3, 0, 4, 2]
    assert values(pickle.loads(pickle.dumps(source))) == [0, 1, 2, 3, 4]
    with multiprocessing.get_context("fork").Pool(2) as pool:
        assert values(pool.map(source.__getitem__, [4, 1, 3, 0])) == [4, 1, 3, 0]
    with pytest.raises(IndexError):
        source[5]
    np.testing.assert_array_equal(source.intrinsics.matrix, K)


def test_a_file_of_a_bag_and_a_bag_without_metadata(tmp_path: Path) -> None:
    bag = write_bag(tmp_path / "bag", drive())
    assert values(open_source(bag / "bag.mcap")) == [0, 1, 2, 3, 4]
    (bag / "metadata.yaml").unlink()
    assert values(open_source(bag)) == [0, 1, 2, 3, 4]


def test_a_bag_of_humble_carries_no_message_definitions(tmp_path: Path) -> None:
    bag = write_bag(tmp_path / "bag", drive(), "SQLITE3")
    with sqlite3.connect(bag / "bag.db3") as database:
        database.executescript("DROP TABLE message_definitions; UPDATE schema SET schema_version = 3;")
    assert values(open_source(bag)) == [0, 1, 2, 3, 4]


def test_messages_recorded_at_the_same_time(tmp_path: Path) -> None:
    messages = [(topic, START, message) for topic, _, message in drive()]
    source = open_source(write_bag(tmp_path / "bag", messages))
    assert values([source[i] for i in range(5)]) == values(source) == [0, 1, 2, 3, 4]


def test_the_only_camera_topic_is_found(tmp_path: Path) -> None:
    messages = [
        *drive(3),
        *(("/depth/image_raw", START + i, image(1, START, "16UC1")) for i in range(3)),
        *(("/camera/image_raw/compressed", START + i, compressed(0, START)) for i in range(3)),
        *(("/camera/image_raw/compressedDepth", START + i, compressed(0, START)) for i in range(3)),
    ]
    bag = write_bag(tmp_path / "bag", messages)
    assert open_source(bag).topic == "/camera/image_raw"
    with pytest.raises(DataError, match=r"no images on /none: its topics are .*/camera/image_raw"):
        open_source(bag, topic="/none")


def test_several_cameras_must_be_told_apart(tmp_path: Path) -> None:
    left = drive(2, "/left/image_raw")
    right = drive(
        3,
        "/right/image_raw",
        camera_info(k=(K * [[1], [1], [1]] + [[9, 0, 0], [0, 0, 0], [0, 0, 0]]).reshape(-1)),
    )
    bag = write_bag(tmp_path / "bag", [*left, *right])
    with pytest.raises(DataError, match="topics, name one with --topic: /left/image_raw, /right/image_raw"):
        open_source(bag)
    source = open_source(bag, topic="/right/image_raw")
    assert len(source) == 3
    assert source.intrinsics.fx == 49


def test_compressed_images_and_their_camera_info(tmp_path: Path) -> None:
    messages: list[tuple[str, int, Any]] = [("/cam/camera_info", START, camera_info())]
    messages += [("/cam/image/compressed", START + i, compressed(10 * i, START + i * STEP)) for i in range(3)]
    bag = write_bag(tmp_path / "bag", messages)
    assert values(open_source(bag)) == [0, 1, 2]
    assert open_source(bag, topic="/cam/image").topic == "/cam/image/compressed"


def test_empty_stamps_are_replaced_by_the_time_of_recording(tmp_path: Path) -> None:
    messages = [("/camera/camera_info", START, camera_info())]
    messages += [("/camera/image", START + i, image(10 * i, 0)) for i in range(3)]
    assert [f.stamp_ns - START for f in open_source(write_bag(tmp_path / "bag", messages))] == [0, 1, 2]


def test_frames_that_cannot_be_used_are_reported_skipped_and_counted(tmp_path: Path, caplog: Any) -> None:
    messages = drive(7)
    stamps = itertools.count(START + 7 * STEP, STEP)
    damaged = image(0, next(stamps))
    damaged.data = damaged.data[:-9]
    whole = STORE.serialize_cdr(image(80, next(stamps)), damaged.__msgtype__)
    messages[5] = (messages[5][0], messages[5][1], image(20, START + STEP))  # stamped like the one before
    messages += [
        ("/camera/image_raw", START + 10 * STEP, damaged),
        ("/camera/image_raw", START + 11 * STEP, (damaged.__msgtype__, bytes(whole[:40]))),
        ("/camera/image_raw", START + 12 * STEP, image(0, next(stamps), shape=(HEIGHT, 16))),
        ("/camera/image_raw", START + 13 * STEP, image(0, next(stamps), "16UC1")),
        ("/camera/image_raw", START + 14 * STEP, image(110, next(stamps))),
    ]
    source = open_source(write_bag(tmp_path / "bag", messages))
    with caplog.at_level(logging.WARNING):
        assert values(source) == [0, 1, 3, 4, 5, 6, 11]
    assert source.skipped == 5
    for words in ("not after the frame before", "759 bytes", "is damaged", "is 16x24", "16UC1"):
        assert words in caplog.text


def test_without_camera_info_a_calibration_is_asked_for(tmp_path: Path) -> None:
    bag = write_bag(tmp_path / "bag", [("/cam/image", START + i, image(10 * i, START + i)) for i in range(3)])
    with pytest.raises(DataError, match=r"no camera_info beside /cam/image: give one with --calibration"):
        open_source(bag)
    entries = {
        "image_width": WIDTH,
        "image_height": HEIGHT,
        "camera_matrix": {"data": K.reshape(-1).tolist()},
    }
    calibration = tmp_path / "camera.yaml"
    calibration.write_text(yaml.safe_dump(entries))
    source = open_source(bag, calibration=calibration)
    assert values(source) == [0, 1, 2]
    np.testing.assert_array_equal(source.intrinsics.matrix, K)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"k": np.zeros(9), "p": np.zeros(12)}, "focal lengths must be positive"),
        ({"width": 0}, "empty"),
        ({"d": np.ones(5), "distortion_model": "magic"}, "'magic' is not supported"),
    ],
)
def test_a_useless_camera_info_is_explained(tmp_path: Path, changes: dict[str, Any], words: str) -> None:
    bag = write_bag(tmp_path / "bag", drive(info=camera_info(**changes)))
    with pytest.raises(DataError, match=words) as caught:
        open_source(bag)
    assert str(bag) in str(caught.value)


P_NEW = np.column_stack([K * [[0.9], [0.9], [1]], np.zeros(3)])


def test_a_distorted_image_is_rectified_unless_the_topic_is_rectified(tmp_path: Path) -> None:
    info = camera_info(d=np.array([-0.3, 0.1, 0, 0, 0]), p=P_NEW.reshape(-1))
    pattern = np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH), np.uint8)
    frames = {}
    for topic in ("/camera/image_raw", "/camera/image_rect"):
        messages = drive(1, topic, info)
        messages[1][2].data = pattern.reshape(-1)
        source = open_source(write_bag(tmp_path / topic.replace("/", "_"), messages))
        np.testing.assert_allclose(source.intrinsics.matrix, P_NEW[:, :3])
        frames[topic] = source[0]
    expected = cv2.undistort(pattern, K, np.array([-0.3, 0.1, 0, 0, 0]), newCameraMatrix=P_NEW[:, :3])
    assert np.abs(frames["/camera/image_raw"].image[..., 0].astype(int) - expected).max() <= 1
    np.testing.assert_array_equal(frames["/camera/image_rect"].image[..., 0], pattern)
    bag = write_bag(tmp_path / "kitti2bag", drive(1, "/camera/image_raw", info))
    assert open_source(bag, rectified=True)._rectify is None


def test_region_of_interest_and_binning(tmp_path: Path) -> None:
    """Of the full image every second pixel from (10, 8) on: pixel (u, v) is the full (10 + 2 u, 8 + 2 v)."""
    roi = TYPES["sensor_msgs/msg/RegionOfInterest"]
    info = camera_info(
        width=100,
        height=80,
        binning_x=2,
        binning_y=2,
        roi=roi(x_offset=10, y_offset=8, width=2 * WIDTH, height=2 * HEIGHT, do_rectify=False),
    )
    source = open_source(write_bag(tmp_path / "bag", drive(1, info=info)))
    assert values(source) == [0]
    X = np.array([0.1, -0.2, 2.0])
    full, seen = K @ X / X[2], source.intrinsics.matrix @ X / X[2]
    np.testing.assert_allclose([10 + 2 * seen[0], 8 + 2 * seen[1]], full[:2])


def test_damaged_and_empty_bags(tmp_path: Path) -> None:
    bag = write_bag(tmp_path / "bag", drive())
    data = (bag / "bag.mcap").read_bytes()
    for cut in (0, 20, len(data) // 2):
        (bag / "bag.mcap").write_bytes(data[:cut])
        with pytest.raises(DataError, match=r"no whole ROS 2 bag.*reindex"):
            open_source(bag)
    (bag / "metadata.yaml").write_text("rosbag2_bagfile_information: [")
    with pytest.raises(DataError, match="no whole ROS 2 bag") as caught:
        open_source(bag)
    assert "\n" not in str(caught.value)
    (tmp_path / "cut.db3").write_bytes(b"SQLite format 3\0" + bytes(100))
    with pytest.raises(DataError, match="no whole ROS 2 bag"):
        open_source(tmp_path / "cut.db3")
    empty = write_bag(tmp_path / "empty", [("/camera/camera_info", START, camera_info())])
    with pytest.raises(DataError, match=r"no camera images: its topics are /camera/camera_info"):
        open_source(empty)


def odometry(stamp_ns: int, x: float, child: str = "base_link") -> Any:
    def new(name: str, **fields: Any) -> Any:
        return TYPES[f"geometry_msgs/msg/{name}"](**fields)

    zero = new("Vector3", x=0.0, y=0.0, z=0.0)
    pose = new(
        "Pose",
        position=new("Point", x=x, y=0.0, z=0.0),
        orientation=new("Quaternion", x=0.0, y=0.0, z=0.0, w=1.0),
    )
    return TYPES["nav_msgs/msg/Odometry"](
        header=header(stamp_ns, "map"),
        child_frame_id=child,
        pose=new("PoseWithCovariance", pose=pose, covariance=np.zeros(36)),
        twist=new(
            "TwistWithCovariance", twist=new("Twist", linear=zero, angular=zero), covariance=np.zeros(36)
        ),
    )


def static(parent: str, child: str, translation: tuple[float, ...], rotation: tuple[float, ...]) -> Any:
    def new(name: str, **fields: Any) -> Any:
        return TYPES[f"geometry_msgs/msg/{name}"](**fields)

    x, y, z = translation
    qx, qy, qz, qw = rotation
    transform = new(
        "Transform",
        translation=new("Vector3", x=x, y=y, z=z),
        rotation=new("Quaternion", x=qx, y=qy, z=qz, w=qw),
    )
    stamped = new("TransformStamped", header=header(START, parent), child_frame_id=child, transform=transform)
    return TYPES["tf2_msgs/msg/TFMessage"](transforms=[stamped])


def test_ground_truth_walks_the_static_transforms(tmp_path: Path, caplog: Any) -> None:
    """base_link to a mast half a metre ahead, to the camera's optical frame (REP-103) a metre up on it."""
    truth = [("/truth", START + i * STEP, odometry(START + i * STEP + 1000, 2.0 * i)) for i in (0, 1, 3)]
    mast = ("/tf_static", START, static("base_link", "mast", (0.5, 0, 0), (0, 0, 0, 1)))
    camera = ("/tf_static", START, static("mast", "/camera", (0, 0, 1.0), (-0.5, 0.5, -0.5, 0.5)))
    bag = write_bag(tmp_path / "bag", [mast, camera, *truth, *drive()])
    source = open_source(bag, ground_truth_topic="/truth")
    poses = [f.T_world_cam for f in source]
    assert [T is not None for T in poses] == [True, True, False, True, False]
    np.testing.assert_allclose(poses[3] @ [0, 0, 5, 1], [6 + 0.5 + 5, 0, 1, 1], atol=1e-12)  # 5 m ahead
    np.testing.assert_allclose(poses[3] @ [2, 0, 0, 1], [6.5, -2, 1, 1], atol=1e-12)  # 2 m to the right
    assert source.ground_truth.stamps_ns.tolist() == [START + i * STEP + 1000 for i in (0, 1, 3)]
    assert open_source(bag).ground_truth is None
    with pytest.raises(DataError, match="no nav_msgs/msg/Odometry on /tf_static"):
        open_source(bag, ground_truth_topic="/tf_static")
    loose = write_bag(tmp_path / "loose", [mast, *truth, *drive()])
    with caplog.at_level(logging.WARNING):
        assert open_source(loose, ground_truth_topic="/truth").ground_truth is None
    assert "does not connect base_link to camera" in caplog.text


def test_ground_truth_that_is_none_is_left_out(tmp_path: Path, caplog: Any) -> None:
    camera = ("/tf_static", START, static("base_link", "camera", (0, 0, 0), (0, 0, 0, 1)))
    truth = [odometry(START + i * STEP, x) for i, x in enumerate((0.0, float("nan"), 2.0, 3.0))]
    truth[3].pose.pose.orientation.w = 0.0
    messages = [("/truth", START + i * STEP, message) for i, message in enumerate(truth)]
    source = open_source(
        write_bag(tmp_path / "bag", [camera, *messages, *drive()]), ground_truth_topic="/truth"
    )
    np.testing.assert_array_equal(source.ground_truth.positions[:, 0], [0, 2])
    assert "2 poses of the ground truth are not finite" in caplog.text
    for name, connection, recorded in (
        ("no_pose", camera, messages[1:2]),
        ("no_transform", ("/tf_static", START, static("base_link", "camera", (0, 0, 0), (0,) * 4)), messages),
    ):
        bag = write_bag(tmp_path / name, [connection, *recorded, *drive()])
        assert open_source(bag, ground_truth_topic="/truth").ground_truth is None


def test_ground_truth_of_a_sensor_beside_the_camera(tmp_path: Path) -> None:
    """An IMU 1 m behind base_link knows where it is; the camera is half a metre ahead of base_link."""
    imu = ("/tf_static", START, static("base_link", "imu", (-1.0, 0, 0), (0, 0, 0, 1)))
    camera = ("/tf_static", START, static("base_link", "camera", (0.5, 0, 0), (-0.5, 0.5, -0.5, 0.5)))
    truth = ("/ground_truth/odometry", START, odometry(START, 10.0, "imu"))
    T = open_source(write_bag(tmp_path / "bag", [imu, camera, truth, *drive(1)]))[0].T_world_cam
    np.testing.assert_allclose(T[:3, 3], [11.5, 0, 0], atol=1e-12)


def test_a_forked_process_opens_its_own_handle() -> None:
    handle = PerProcess(os.getpid)
    fork = multiprocessing.get_context("fork")
    queue = fork.Queue()
    assert handle.get() == os.getpid()
    child = fork.Process(target=lambda: queue.put(handle.get()))
    child.start()
    assert queue.get(timeout=60) == child.pid
    child.join()


def test_rosbags_is_needed_only_for_bags(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bag = write_bag(tmp_path / "bag", drive(1))
    monkeypatch.setitem(sys.modules, "rosbags.highlevel", None)
    with pytest.raises(DataError, match="pip install rosbags"):
        open_source(bag)
