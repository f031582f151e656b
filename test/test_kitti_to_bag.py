"""KITTI to ROS 2 bags: every message read by an independent reader, bit for bit; nothing half-written."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import yaml
from kitti_folders import P4, K, camera0_poses, write_sequence

from dualrefine_ros.data.source import open_source
from dualrefine_ros.errors import DataError
from dualrefine_ros.tools.kitti_to_bag import EPOCH_NS
from dualrefine_ros.tools.main import main

mcap_reader = pytest.importorskip("mcap_ros2.reader")
CLIP = Path(__file__).parent.parent / "clips" / "kitti_0001"


def convert(source: Path, bag: Path, *options: str) -> Path:
    assert main(["kitti-to-bag", str(source), str(bag), *options]) == 0
    return bag


def read_mcap(bag: Path) -> dict[str, list[Any]]:
    """Topic -> messages, by the MCAP project's own reader."""
    messages: dict[str, list[Any]] = {}
    for item in mcap_reader.read_ros2_messages(str(next(bag.glob("*.mcap")))):
        messages.setdefault(item.channel.topic, []).append(item.ros_msg)
        stamp = getattr(item.ros_msg, "header", None)
        if stamp is not None:
            assert item.log_time_ns == stamp.stamp.sec * 10**9 + stamp.stamp.nanosec
    return messages


def metadata(bag: Path) -> dict[str, Any]:
    return yaml.safe_load((bag / "metadata.yaml").read_text())["rosbag2_bagfile_information"]


def recorded_qos(bag: Path) -> dict[str, Any]:
    topics = [t["topic_metadata"] for t in metadata(bag)["topics_with_message_count"]]
    return {topic["name"]: topic["offered_qos_profiles"] for topic in topics}


def rotation_of(q: Any) -> np.ndarray:
    """By OpenCV: from the axis and the angle of the quaternion."""
    axis = np.array([q.x, q.y, q.z])
    norm = np.linalg.norm(axis)
    assert norm**2 + q.w**2 == pytest.approx(1)
    return cv2.Rodrigues(axis / max(norm, 1e-12) * 2 * np.arctan2(norm, q.w))[0]


def test_every_message_by_an_independent_reader(tmp_path: Path) -> None:
    folder = write_sequence(tmp_path / "clip", cameras=(2,))
    rng = np.random.default_rng(0)
    for path in (folder / "image_2").iterdir():
        cv2.imwrite(str(path), rng.integers(0, 256, (10, 20, 3), np.uint8))
    messages = read_mcap(convert(folder, tmp_path / "bag"))
    assert {topic: len(items) for topic, items in messages.items()} == {
        "/tf_static": 1,
        "/camera/camera_info": 4,
        "/camera/image_rect": 4,
        "/ground_truth/odometry": 4,
    }
    for i, image in enumerate(messages["/camera/image_rect"]):
        pixels = cv2.imread(str(folder / "image_2" / f"{i:06d}.png"))[..., ::-1]
        assert (image.encoding, image.width, image.height, image.step) == ("rgb8", 20, 10, 60)
        assert bytes(image.data) == pixels.tobytes()
        assert image.header.frame_id == "camera_optical_frame"
        assert image.header.stamp.sec * 10**9 + image.header.stamp.nanosec == EPOCH_NS + i * 100_000_000
        info = messages["/camera/camera_info"][i]
        assert str(info.header) == str(image.header)
        assert (info.width, info.height, info.distortion_model) == (20, 10, "plumb_bob")
        np.testing.assert_array_equal(np.reshape(info.k, (3, 3)), K)
        np.testing.assert_array_equal(np.reshape(info.p, (3, 4)), np.column_stack([K, np.zeros(3)]))
        np.testing.assert_array_equal(np.reshape(info.r, (3, 3)), np.eye(3))
        assert not np.any(info.d)


def test_base_link_stands_on_the_road_with_the_axes_of_a_robot(tmp_path: Path) -> None:
    messages = read_mcap(convert(write_sequence(tmp_path / "clip", cameras=(0,)), tmp_path / "bag"))
    (transform,) = messages["/tf_static"][0].transforms
    assert (transform.header.frame_id, transform.child_frame_id) == ("base_link", "camera_optical_frame")
    R = rotation_of(transform.transform.rotation)
    np.testing.assert_allclose(R @ [0, 0, 1], [1, 0, 0], atol=1e-9)  # the camera looks ahead
    np.testing.assert_allclose(R @ [1, 0, 0], [0, -1, 0], atol=1e-9)  # its right is the robot's right
    t = transform.transform.translation
    assert (t.x, t.y, t.z) == pytest.approx((0, 0, 1.65))


def test_ground_truth_is_the_robots_pose_whichever_camera_is_written(tmp_path: Path) -> None:
    odometry = {}
    for camera in (0, 3):
        folder = write_sequence(tmp_path / f"clip{camera}", cameras=(camera,))
        odometry[camera] = read_mcap(convert(folder, tmp_path / f"bag{camera}"))["/ground_truth/odometry"]
    for i, (left, right) in enumerate(zip(odometry[0], odometry[3], strict=True)):
        assert (left.header.frame_id, left.child_frame_id) == ("odom", "base_link")
        p, q = left.pose.pose.position, right.pose.pose.position
        np.testing.assert_allclose([p.x, p.y, p.z], [q.x, q.y, q.z], atol=1e-9)
        # by hand: the camera is straight above base_link, it goes ahead and sinks, turning left by 0.1 rad
        x, y, z = camera0_poses(4)[i][:, 3]
        np.testing.assert_allclose([p.x, p.y, p.z], [z, -x, -y], atol=1e-9)
        R = rotation_of(left.pose.pose.orientation)
        np.testing.assert_allclose(R[:, 0], [np.cos(0.1 * i), np.sin(0.1 * i), 0], atol=1e-9)
        np.testing.assert_allclose(R[:, 2], [0, 0, 1], atol=1e-9)


def test_the_camera_3_stands_right_of_base_link(tmp_path: Path) -> None:
    messages = read_mcap(convert(write_sequence(tmp_path / "clip", cameras=(3,)), tmp_path / "bag"))
    t = messages["/tf_static"][0].transforms[0].transform.translation
    x, y, z = -np.linalg.inv(K) @ P4[3]
    assert x > 0.4
    np.testing.assert_allclose([t.x, t.y, t.z], [z, -x, 1.65 - y], atol=1e-12)


@pytest.mark.parametrize("storage", ["mcap", "sqlite3"])
@pytest.mark.parametrize("version", ["8", "9"])
def test_our_reader_gives_back_what_went_in(tmp_path: Path, storage: str, version: str) -> None:
    folder = write_sequence(tmp_path / "clip", cameras=(1,))
    bag = convert(folder, tmp_path / "bag", "--storage", storage, "--bag-version", version)
    assert metadata(bag)["version"] == int(version)
    original, source = open_source(folder), open_source(bag)
    assert len(source) == 4
    for before, after in zip(original, source, strict=True):
        np.testing.assert_array_equal(after.image, before.image)
        np.testing.assert_array_equal(after.intrinsics.matrix, before.intrinsics.matrix)
        assert after.stamp_ns == before.stamp_ns + EPOCH_NS
    before, after = original.ground_truth.relative_to_first(), source.ground_truth.relative_to_first()
    np.testing.assert_allclose(after.poses, before.poses, atol=1e-9)
    np.testing.assert_allclose(source[2].T_world_cam, source.ground_truth.poses[2])


def test_gray_images_stay_gray(tmp_path: Path) -> None:
    messages = read_mcap(convert(write_sequence(tmp_path / "clip", cameras=(0,)), tmp_path / "bag"))
    image = messages["/camera/image_rect"][2]
    assert (image.encoding, image.step, bytes(image.data)) == ("mono8", 20, bytes([20] * 200))


def test_jpeg_files_are_copied_and_others_compressed(tmp_path: Path) -> None:
    clip = write_sequence(tmp_path / "clip", frame_ids=(0, 1))
    jpeg = (CLIP / "image_2" / "000000.jpg").read_bytes()
    for frame_id, path in enumerate(sorted((CLIP / "image_2").iterdir())[:2]):
        (clip / "image_2" / f"{frame_id:06d}.png").unlink()
        if frame_id == 0:
            (clip / "image_2" / "000000.jpg").write_bytes(path.read_bytes())
        else:
            cv2.imwrite(str(clip / "image_2" / "000001.png"), cv2.imread(str(path)))
    bag = convert(clip, tmp_path / "bag", "--images", "jpeg", "--quality", "90")
    copied, compressed = read_mcap(bag)["/camera/image_rect/compressed"]
    assert bytes(copied.data) == jpeg
    assert copied.format == compressed.format == "rgb8; jpeg compressed bgr8"
    first, second = open_source(bag)
    np.testing.assert_array_equal(first.image, cv2.imread(str(CLIP / "image_2" / "000000.jpg"))[..., ::-1])
    original = cv2.imread(str(CLIP / "image_2" / "000001.jpg"))[..., ::-1]
    assert 0 < np.abs(second.image.astype(int) - original).mean() < 3


def test_static_transforms_are_latched_in_each_versions_words(tmp_path: Path) -> None:
    folder = write_sequence(tmp_path / "clip")
    in_8 = recorded_qos(convert(folder, tmp_path / "bag8"))
    assert isinstance(in_8["/tf_static"], str)  # YAML within YAML, policies as numbers of rmw
    (static,), (image,) = yaml.safe_load(in_8["/tf_static"]), yaml.safe_load(in_8["/camera/image_rect"])
    assert (static["durability"], static["reliability"], static["depth"]) == (1, 1, 1)
    assert (image["durability"], image["reliability"]) == (2, 1)
    in_9 = recorded_qos(convert(folder, tmp_path / "bag9", "--bag-version", "9"))
    (static,), (image,) = in_9["/tf_static"], in_9["/camera/image_rect"]
    assert (static["durability"], static["reliability"]) == ("transient_local", "reliable")
    assert (image["durability"], image["history"]) == ("volatile", "keep_last")


def test_sqlite_holds_the_same_bytes_as_mcap(tmp_path: Path) -> None:
    folder = write_sequence(tmp_path / "clip")
    bag = convert(folder, tmp_path / "bag", "--storage", "sqlite3")
    with sqlite3.connect(next(bag.glob("*.db3"))) as database:
        rows = database.execute(
            "SELECT timestamp, data FROM messages JOIN topics ON topic_id = topics.id "
            "WHERE name = '/camera/image_rect' ORDER BY timestamp"
        ).fetchall()
        (qos,) = database.execute(
            "SELECT offered_qos_profiles FROM topics WHERE name = '/tf_static'"
        ).fetchone()
    assert [timestamp for timestamp, _ in rows] == [EPOCH_NS + i * 100_000_000 for i in range(4)]
    assert all(data.endswith(bytes([10 * i] * 200)) for i, (_, data) in enumerate(rows))
    assert yaml.safe_load(qos)[0]["durability"] == 1


def test_stamps_of_a_raw_drive_are_kept(tmp_path: Path) -> None:
    drive = Path(__file__).parent / "data" / "kitti_raw" / "2011_09_26" / "2011_09_26_drive_9999_sync"
    messages = read_mcap(convert(drive, tmp_path / "bag", "--images", "jpeg"))
    assert set(messages) == {"/tf_static", "/camera/camera_info", "/camera/image_rect/compressed"}
    stamp = messages["/camera/camera_info"][0].header.stamp
    assert stamp.sec * 10**9 + stamp.nanosec == open_source(drive)[0].stamp_ns


def test_unreadable_images_are_left_out_and_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = write_sequence(tmp_path / "clip")
    (folder / "image_2" / "000002.png").write_bytes(b"")
    bag = convert(folder, tmp_path / "bag")
    assert "3 images, 1 unreadable left out, with ground truth" in capsys.readouterr().out
    assert [f.stamp_ns - EPOCH_NS for f in open_source(bag)] == [0, 100_000_000, 300_000_000]


INTERRUPTED = """
import os, sys
from dualrefine_ros.data.bag_writer import BagWriter
from dualrefine_ros.tools.main import main
write, count = BagWriter.write, 0
def third_time(self, *args):
    global count
    count += 1
    if count == 3:
        {action}
    write(self, *args)
BagWriter.write = third_time
sys.exit(main(["kitti-to-bag", sys.argv[1], sys.argv[2]]))
"""


@pytest.mark.parametrize(
    ("action", "status", "left"),
    [
        ("raise KeyboardInterrupt", 130, []),
        ("os._exit(9)", 9, ["bag.partial"]),
        ("raise OSError(28, 'disk full')", 2, []),
        ("import sqlite3; raise sqlite3.OperationalError('database or disk is full')", 2, []),
    ],
)
def test_an_interrupted_run_leaves_no_bag(tmp_path: Path, action: str, status: int, left: list[str]) -> None:
    folder = write_sequence(tmp_path / "clip")
    bag = tmp_path / "out" / "bag"
    program = [sys.executable, "-c", INTERRUPTED.format(action=action), str(folder), str(bag)]
    result = subprocess.run(program, capture_output=True, text=True)
    assert result.returncode == status, result.stderr
    assert "Traceback" not in result.stderr
    assert [path.name for path in bag.parent.iterdir()] == left
    for unfinished in (bag.parent / "bag.partial" / "bag", bag.parent / "bag.partial"):
        with pytest.raises(DataError):
            open_source(unfinished)
    convert(folder, bag)
    assert len(list(open_source(bag))) == 4
    assert [path.name for path in bag.parent.iterdir()] == ["bag"]


def test_what_cannot_be_converted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = write_sequence(tmp_path / "clip")
    bag = convert(folder, tmp_path / "bag")
    for arguments, words in [
        ([str(folder), str(bag)], "exists already"),
        ([str(bag), str(tmp_path / "new")], "no KITTI sequence"),
        ([str(folder), str(tmp_path / "new"), "--images", "jpeg", "--quality", "0"], "1 to 100, not 0"),
        ([str(folder), str(tmp_path / "new"), "--topic", "image"], "a slash before each"),
        ([str(folder), str(tmp_path / "new"), "--topic", "/"], "a slash before each"),
        ([str(folder), str(tmp_path / "new"), "--topic", "/camera 2/image"], "not '/camera 2/image'"),
        ([str(folder), str(tmp_path / "new"), "--camera-height", "nan"], "--camera-height must be a number"),
        ([str(folder), str(folder / "calib.txt" / "bag")], "cannot be written"),
        ([str(tmp_path / "nothing"), str(tmp_path / "new")], "does not exist"),
    ]:
        assert main(["kitti-to-bag", *arguments]) == 2
        assert words in capsys.readouterr().err
        assert not (tmp_path / "new").exists()
    assert len(open_source(bag)) == 4
