"""What the node publishes beside odometry: depth in all its forms, status, TF, covariances."""

from __future__ import annotations

import struct

import numpy as np
import pytest
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from geometry_msgs.msg import TransformStamped
from node_harness import FOCAL_LENGTH, HEIGHT, SECOND, WIDTH, Robot
from rclpy.parameter import Parameter
from sensor_msgs.msg import Image, PointCloud2
from std_msgs.msg import Header
from tf2_msgs.msg import TFMessage

from dualrefine_ros.errors import DeviceError
from dualrefine_ros.frame import Frame, Intrinsics, Status
from dualrefine_ros.ros import outputs
from dualrefine_ros.ros.depth_messages import depth_image_16u, point_cloud


def test_depth_confidence_and_points_of_one_image(engine, robot, make_node) -> None:
    make_node(publish_depth_16u=True)
    for topic, kind in (("depth/image_16u", Image), ("depth/points", PointCloud2), ("confidence", Image)):
        robot.listen(topic, kind)
    robot.wait_for_node()
    robot.publish_camera_info()
    robot.drive([SECOND])
    robot.wait(lambda: all(robot.heard.values()), "every message")
    millimetres, cloud, confidence = (
        robot.heard[topic][0] for topic in ("depth/image_16u", "depth/points", "confidence")
    )
    for message in (millimetres, cloud, confidence):
        assert (message.header.stamp.sec, message.header.frame_id) == (1, "camera")
        assert (message.height, message.width) == (HEIGHT, WIDTH)
    assert (millimetres.encoding, millimetres.step) == ("16UC1", 2 * WIDTH)
    assert set(np.frombuffer(millimetres.data, "<u2")) == {2000}
    assert confidence.encoding == "32FC1"
    assert set(np.frombuffer(confidence.data, "<f4")) == {0.5}
    # one point by hand: column 41, row 13; principal point (31, 23), 2 m away
    assert not cloud.is_bigendian
    at = 13 * cloud.row_step + 41 * cloud.point_step
    x, y, z, blue, green, red = struct.unpack_from("<fffBBB", bytes(cloud.data), at)
    assert (x, y, z) == pytest.approx((2 * 10 / FOCAL_LENGTH, -2 * 10 / FOCAL_LENGTH, 2.0))
    assert [red, green, blue] == engine.frame.image[13, 41].tolist()


def test_large_messages_are_made_only_for_listeners(robot, make_node, monkeypatch) -> None:
    made = []
    monkeypatch.setattr(outputs, "point_cloud", lambda *_: made.append("points"))
    monkeypatch.setattr(outputs, "depth_image_16u", lambda *_: made.append("16u"))
    monkeypatch.setattr(outputs, "confidence_image", lambda *_: made.append("confidence"))
    make_node(publish_depth_16u=True)
    robot.publish_camera_info()
    robot.drive([1, 2])
    assert made == []


def test_millimetres_end_where_16_bits_do() -> None:
    depth = np.array([[0.0014, 65.535, 65.54, np.nan, np.inf, -1.0, 1e30, 0.0]], np.float32)
    message = depth_image_16u(depth, Header())
    assert np.frombuffer(message.data, "<u2").tolist() == [1, 65535, 0, 0, 0, 0, 0, 0]


def test_a_cloud_keeps_every_so_manieth_pixel_and_its_place() -> None:
    rgb = np.arange(5 * 7 * 3, dtype=np.uint8).reshape(5, 7, 3)
    frame = Frame(0, rgb, Intrinsics(10.0, 20.0, 3.0, 2.0, 7, 5))
    depth = np.full((5, 7), 4.0, np.float32)
    depth[0, 0], depth[0, 3] = np.nan, 0.0
    cloud = point_cloud(depth, frame, Header(), stride=3)
    assert (cloud.height, cloud.width, cloud.row_step) == (2, 3, 48)
    points = np.frombuffer(cloud.data, "<f4").reshape(2, 3, 4)
    assert np.isnan(points[0, 0, :3]).all()
    assert np.isnan(points[0, 1, :3]).all()
    np.testing.assert_allclose(points[1, 2, :3], [4 * 3 / 10, 4 * 1 / 20, 4.0], rtol=1e-6)
    assert not cloud.is_dense


def test_the_status_of_each_image_says_what_happened(engine, robot, make_node) -> None:
    make_node()
    robot.publish_camera_info()
    for stamp, status in (
        (1, Status.TRACKING),
        (2, Status.LOST),
        (3, Status.STATIONARY),
        (4, Status.DEGRADED),
    ):
        engine.status = status
        robot.drive([stamp])
    robot.wait(lambda: len(robot.heard["status"]) == 4, "the status of each")
    levels = [message.level for message in robot.heard["status"]]
    ok, warn, error = DiagnosticStatus.OK, DiagnosticStatus.WARN, DiagnosticStatus.ERROR
    assert levels == [ok, error, ok, warn]
    assert robot.heard["status"][1].message == "lost: As told."
    values = {pair.key: pair.value for pair in robot.heard["status"][0].values}
    assert values["stamp"] == "0.000000001"
    assert values["stage encode [ms]"] == "2.000"
    assert float(values["engine [ms]"]) > 0


def test_an_image_without_an_answer_has_a_status_with_its_cause(engine, robot, make_node) -> None:
    make_node(assume_optical_at_base=False)
    robot.publish_camera_info()
    robot.spin_for(0.3)

    def status_of(stamp: int, **image: str) -> DiagnosticStatus:
        robot.publish_image(stamp, **image)
        mine = [("stamp", f"0.{stamp:09d}")]

        def heard() -> list[DiagnosticStatus]:
            return [m for m in robot.heard["status"] if [(p.key, p.value) for p in m.values] == mine]

        robot.wait(heard, "the status")
        return heard()[0]

    waiting = status_of(1)
    robot.publish_extrinsics()
    robot.drive([2])
    refused = status_of(3, encoding="nv12")
    engine.failures[4] = DeviceError("The device is out of memory.")
    failed = status_of(4)
    assert {message.level for message in (waiting, refused, failed)} == {DiagnosticStatus.ERROR}
    assert waiting.message.startswith("waiting: No transform from 'camera' to 'base_link'")
    assert refused.message.startswith("refused: An image is refused.")
    assert failed.message == "failed: The device is out of memory."


def test_covariances_are_those_of_the_engine_in_the_base(engine, robot, make_node) -> None:
    make_node(assume_optical_at_base=False)
    robot.publish_extrinsics()
    robot.publish_camera_info()
    engine.covariance = np.diag([1.0, 2.0, 3.0, 1e-12, 1e-12, 1e-12]) * 1e-4
    robot.drive([SECOND, 3 * SECOND])
    twist = np.array(robot.heard["odometry"][1].twist.covariance).reshape(6, 6)
    # right, down, ahead of the camera are -y, -z, x of the base; over two seconds
    np.testing.assert_allclose(np.diag(twist)[:3], np.array([3.0, 1.0, 2.0]) * 1e-4 / 4, rtol=1e-6)
    pose = np.array(robot.heard["odometry"][1].pose.covariance).reshape(6, 6)
    np.testing.assert_allclose(pose, pose.T, atol=1e-12)
    assert np.linalg.eigvalsh(pose)[0] > 0
    assert np.array(robot.heard["odometry"][0].twist.covariance)[0] >= 100  # no motion is known yet


def test_tf_can_be_turned_off_while_running(robot, make_node) -> None:
    node = make_node()
    robot.publish_camera_info()
    robot.drive([1, 2])
    node.set_parameters([Parameter("publish_tf", value=False)])
    robot.drive([3])
    robot.spin_for(0.2)
    (first, second) = (message.transforms[0] for message in robot.heard["/tf"])
    assert (first.header.frame_id, first.child_frame_id) == ("odom", "base_link")
    assert second.transform.translation.x == pytest.approx(1.0)


def test_tf_is_inverted_from_the_start_or_never(robot, make_node) -> None:
    """Listeners remember both ways: the frames would hang on each other, and TF answers nobody any more."""
    node = make_node(invert_tf=True)
    robot.publish_camera_info()
    robot.drive([1, 2])
    assert not node.set_parameters([Parameter("invert_tf", value=False)])[0].successful
    robot.drive([3])
    robot.wait(lambda: len(robot.heard["/tf"]) == 3, "TF")
    transforms = [message.transforms[0] for message in robot.heard["/tf"]]
    assert {(t.header.frame_id, t.child_frame_id) for t in transforms} == {("base_link", "odom")}
    assert [t.transform.translation.x for t in transforms] == pytest.approx([0.0, -1.0, -2.0])


def drive_beside_a_stranger(robot: Robot, parent: str, child: str, seconds: int = 0) -> None:
    """Answer two images after somebody else has given a frame a parent in TF."""
    stranger = robot.node.create_publisher(TFMessage, "/tf", 10)
    robot.wait(stranger.get_subscription_count, "the node's listener")
    robot.spin_for(0.3)
    transform = TransformStamped(header=Header(frame_id=parent), child_frame_id=child)
    transform.transform.rotation.w = 1.0
    transform.header.stamp.sec = seconds
    stranger.publish(TFMessage(transforms=[transform]))
    robot.wait(lambda: robot.heard["/tf"], "the stranger's transform")
    robot.spin_for(0.3)
    robot.publish_camera_info()
    robot.drive([1, 2])
    robot.spin_for(0.2)


@pytest.mark.parametrize("rival", ["footprint", "odom"])
def test_a_frame_that_has_a_parent_gets_no_second_one(robot, make_node, capfd, rival) -> None:
    """Whether somebody hangs it elsewhere, or moves it in the same way as we would."""
    node = make_node(checkpoint="some.safetensors")
    robot.listen("/diagnostics", DiagnosticArray)
    drive_beside_a_stranger(robot, rival, "base_link", seconds=77)
    assert len(robot.heard["/tf"]) == 1
    said = f"gives 'base_link' the parent '{rival}'"
    assert capfd.readouterr().err.count(said) == 1

    def diagnosed(sentence: str) -> bool:
        statuses = [s for m in robot.heard["/diagnostics"] for s in m.status if s.name.endswith("odometry")]
        return any(sentence in s.message and s.level == DiagnosticStatus.WARN for s in statuses)

    robot.wait(lambda: diagnosed(said), "the diagnosis")
    node.statistics.problems.clear()
    assert node.set_parameters([Parameter("publish_tf", value=False)])[0].successful
    robot.drive([3])
    robot.spin_for(0.1)
    assert "tf" not in node.statistics.problems


def test_an_inverted_transform_is_no_second_parent_either(robot, make_node, capfd) -> None:
    """Of odom, which hangs on the map already."""
    make_node(invert_tf=True)
    drive_beside_a_stranger(robot, "map", "odom")
    assert len(robot.heard["/tf"]) == 1
    assert "gives 'odom' the parent 'map'" in capfd.readouterr().err


def test_extrinsics_may_move(engine, robot, make_node) -> None:
    """The camera rises by a metre on its mast while its picture says that it does: the base stays."""
    make_node(assume_optical_at_base=False, camera_frame="mast_camera")
    mast = robot.node.create_publisher(TFMessage, "/tf", 10)
    robot.wait(mast.get_subscription_count, "the node's listener")

    def raise_to(height: float, second: int) -> None:
        transform = TransformStamped(header=Header(frame_id="base_link"), child_frame_id="mast_camera")
        transform.header.stamp.sec = second
        transform.transform.translation.z = height
        transform.transform.rotation.x, transform.transform.rotation.y = -0.5, 0.5
        transform.transform.rotation.z, transform.transform.rotation.w = -0.5, 0.5
        mast.publish(TFMessage(transforms=[transform]))

    raise_to(1.0, 1)
    raise_to(2.0, 2)
    robot.spin_for(0.3)
    robot.publish_camera_info()
    robot.drive([SECOND, 2 * SECOND])
    positions = [m.pose.pose.position for m in robot.heard["odometry"]]
    np.testing.assert_allclose([positions[1].x, positions[1].z], [1.0, -1.0], atol=1e-9)  # ahead, as told
    # the engine is told, too: the ground is where gravity points in the camera of the image at hand
    expected = [[0, 0, 1, 0], [-1, 0, 0, 0], [0, -1, 0, 2], [0, 0, 0, 1]]
    np.testing.assert_allclose(engine.T_base_cam, expected, atol=1e-9)
