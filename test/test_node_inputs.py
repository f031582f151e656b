"""What the node hears: late, wrong, changing and hostile messages, over DDS."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from node_harness import FOCAL_LENGTH, HEIGHT, SECOND, WIDTH
from rclpy.parameter import Parameter
from rclpy.qos import QoSProfile
from sensor_msgs.msg import CameraInfo, CompressedImage, Image
from std_msgs.msg import Header

from dualrefine_ros.ros.conversions import bytes_field, stamp_from_ns, stamp_to_ns
from dualrefine_ros.ros.intake import says_rectified


def test_compressed_images_are_heard(engine, robot, make_node) -> None:
    node = make_node(autostart=False, image_transport="compressed")
    camera = robot.node.create_publisher(CompressedImage, "image/compressed", 10)
    node.trigger_configure()
    node.trigger_activate()
    robot.wait(camera.get_subscription_count, "the subscription")
    robot.wait(robot.camera_infos.get_subscription_count, "the other one")
    robot.publish_camera_info()
    rgb = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    rgb[..., 0] = 200  # red
    good = cv2.imencode(".png", np.ascontiguousarray(rgb[..., ::-1]))[1]
    bomb = cv2.imencode(".png", np.zeros((4000, 4000), np.uint8))[1]
    for stamp, data in (
        (1, good),
        (2, good[: len(good) // 2]),
        (3, bomb),
        (4, np.arange(9, dtype=np.uint8)),
        (5, good),
    ):
        header = Header(stamp=stamp_from_ns(stamp), frame_id="camera")
        camera.publish(CompressedImage(header=header, format="png", data=bytes_field(data)))
        robot.wait(
            lambda n=stamp: sum(node.statistics.counts[end] for end in ("answered", "refused")) == n, "an end"
        )
    assert engine.seen == [1, 5]
    assert engine.frame.image[0, 0].tolist() == [200, 0, 0]


def test_max_rate_thins_images_out(engine, robot, make_node) -> None:
    node = make_node(max_rate=10.0)
    robot.publish_camera_info()
    for number in range(12):  # 60 Hz
        robot.publish_image(SECOND + number * SECOND // 60)
        robot.wait(
            lambda n=number: sum(node.statistics.counts[k] for k in ("answered", "skipped")) > n, "an end"
        )
    # due at 0.0, 0.1 and 0.2 s; a quarter of the period early is on time
    assert engine.seen == [SECOND + number * SECOND // 60 for number in (0, 5, 11)]
    assert node.statistics.counts["skipped"] == 9
    node.set_parameters([Parameter("max_rate", value=0.0)])
    robot.drive([2 * SECOND, 2 * SECOND + 1])


def test_distorted_images_are_rectified_unless_their_topic_says_they_are(engine, robot, make_node) -> None:
    node = make_node()
    info = robot.publish_camera_info()
    robot.spin_for(0.2)
    info.d = [0.3, 0.0, 0.0, 0.0, 0.0]
    info.p = [40.0, 0.0, 30.0, 0.0, 0.0, 40.0, 20.0, 0.0, 0.0, 0.0, 1.0, 0.0]
    robot.camera_infos.publish(info)
    robot.wait(
        lambda: len(node.intake.camera_info.d) and node.intake.camera_info.d[0] == 0.3, "the calibration"
    )
    sent = robot.publish_image(1)
    robot.wait(robot.odometry_stamps, "odometry")
    assert engine.frame.intrinsics.matrix[0].tolist() == [40.0, 0.0, 30.0]
    assert engine.frame.intrinsics.matrix[1].tolist() == [0.0, 40.0, 20.0]
    rows = np.frombuffer(sent.data, np.uint8).reshape(HEIGHT, -1)
    rgb = rows[:, : 3 * WIDTH].reshape(HEIGHT, WIDTH, 3)[..., ::-1].astype(float)
    # pixel (35, 25) of the rectified camera, through the model by hand (x, y normalised; one coefficient)
    x, y = (35 - 30) / 40, (25 - 20) / 40
    factor = 1 + 0.3 * (x * x + y * y)
    u, v = FOCAL_LENGTH * x * factor + 31, FOCAL_LENGTH * y * factor + 23
    c, r = int(u), int(v)
    a, b = u - c, v - r
    expected = (
        rgb[r, c] * (1 - a) * (1 - b)
        + rgb[r, c + 1] * a * (1 - b)
        + rgb[r + 1, c] * (1 - a) * b
        + rgb[r + 1, c + 1] * a * b
    )
    np.testing.assert_allclose(engine.frame.image[25, 35], expected, atol=6)  # OpenCV has 1/32 of a pixel
    robot.wait(lambda: robot.heard["depth/camera_info"], "the calibration of depth")
    assert robot.heard["depth/camera_info"][0].k[0] == 40.0
    assert not any(robot.heard["depth/camera_info"][0].d)


def test_a_rectified_topic_is_taken_as_it_is(engine, robot, make_node, capfd) -> None:
    node = make_node(autostart=False, image_topic="camera/image_rect")
    camera = robot.node.create_publisher(Image, "camera/image_rect", 10)
    node.trigger_configure()
    node.trigger_activate()
    robot.wait(lambda: camera.get_subscription_count(), "the subscription")
    robot.wait(robot.camera_infos.get_subscription_count, "the other one")
    robot.images = camera
    info = CameraInfo(width=WIDTH, height=HEIGHT, distortion_model="plumb_bob", d=[0.3, 0.0, 0.0, 0.0, 0.0])
    info.k = [50.0, 0.0, 31.0, 0.0, 50.0, 23.0, 0.0, 0.0, 1.0]
    info.p = [40.0, 0.0, 30.0, 0.0, 0.0, 40.0, 20.0, 0.0, 0.0, 0.0, 1.0, 0.0]
    robot.camera_infos.publish(info)
    robot.spin_for(0.3)
    sent = robot.publish_image(1, encoding="rgb8")
    robot.wait(robot.odometry_stamps, "odometry")
    rows = np.frombuffer(sent.data, np.uint8).reshape(HEIGHT, -1)
    np.testing.assert_array_equal(engine.frame.image, rows[:, : 3 * WIDTH].reshape(HEIGHT, WIDTH, 3))
    assert engine.frame.intrinsics.fx == 40.0
    assert "The images of /camera/image_rect are taken as rectified" in capfd.readouterr().err


@pytest.mark.parametrize(
    ("topic", "rectified"),
    [
        ("/camera/image_rect", True),
        ("/camera/image_rect_color", True),
        ("/camera/rect_image", True),
        ("/camera/image_rect/compressed", True),
        ("/director/cam/image_raw", False),
        ("/director/cam/image_raw/compressed", False),
        ("/camera_rect/image_raw", False),
        ("/camera/direct", False),
        ("/camera/image_corrected", False),
    ],
)
def test_the_last_part_of_a_topic_says_whether_it_is_rectified(topic: str, rectified: bool) -> None:
    assert says_rectified(topic) is rectified


def test_roi_and_binning_of_the_calibration_count(engine, robot, make_node) -> None:
    make_node()
    info = CameraInfo(width=4 * WIDTH, height=4 * HEIGHT, binning_x=2, binning_y=2)
    info.k = [200.0, 0.0, 100.0, 0.0, 200.0, 80.0, 0.0, 0.0, 1.0]
    info.roi.x_offset, info.roi.y_offset = 40, 20
    info.roi.width, info.roi.height = 2 * WIDTH, 2 * HEIGHT
    robot.camera_infos.publish(info)
    robot.spin_for(0.3)
    robot.publish_image(1)
    robot.wait(robot.odometry_stamps, "odometry")
    K = engine.frame.intrinsics
    assert (K.fx, K.cx, K.cy) == (100.0, 30.0, 30.0)


def test_a_calibration_of_nan_leaves_the_good_one(engine, robot, make_node, capfd) -> None:
    node = make_node()
    good = robot.publish_camera_info()
    robot.drive([1])
    bad = CameraInfo(width=WIDTH, height=HEIGHT)
    bad.k = [np.nan, *good.k[1:]]
    robot.camera_infos.publish(bad)
    robot.wait(lambda: "calibration" in node.statistics.problems, "the complaint")
    robot.drive([2])
    assert engine.seen == [1, 2]
    assert "not finite" in capfd.readouterr().err


def test_an_image_waits_for_the_calibration_of_its_size(engine, robot, make_node) -> None:
    """Size and calibration change while running; the calibration comes second."""
    node = make_node()
    robot.publish_camera_info()
    robot.drive([1])
    robot.width = 32
    robot.publish_image(2)
    robot.spin_for(0.3)
    assert engine.seen == [1]
    robot.publish_camera_info()
    robot.wait(lambda: robot.odometry_stamps() == [1, 2], "odometry")
    assert engine.frame.intrinsics.width == 32
    robot.publish_camera_info(width=99)  # one that disagrees
    robot.publish_image(3)
    robot.publish_camera_info(width=99)
    robot.wait(lambda: "refused" in node.statistics.problems, "the refusal")
    assert "camera_info is of images of 99x48" in node.statistics.problems["refused"][1]


def test_the_calibration_of_an_earlier_image_decides_nothing(engine, robot, make_node, capfd) -> None:
    """The topics have no common order: an image of a new size may overtake its predecessor's calibration."""
    node = make_node()

    def calibrate(stamp: int, width: int) -> None:
        info = CameraInfo(header=Header(stamp=stamp_from_ns(stamp)), width=width, height=HEIGHT)
        info.k = [FOCAL_LENGTH, 0.0, 31.0, 0.0, FOCAL_LENGTH, 23.0, 0.0, 0.0, 1.0]
        robot.camera_infos.publish(info)
        robot.wait(lambda: node.intake.camera_info in (info,), "the calibration")

    calibrate(1, WIDTH)
    robot.drive([1])
    robot.width = 32
    robot.publish_image(3)
    robot.wait(lambda: node.statistics.counts["received"] == 2, "the image")
    calibrate(2, WIDTH)
    robot.spin_for(0.2)
    assert engine.seen == [1]
    calibrate(3, 32)
    robot.wait(lambda: engine.seen == [1, 3], "its turn")
    assert node.statistics.counts["refused"] == 0

    # a camera whose calibration is always of before, and of another size: it is told
    calibrate(4, WIDTH)
    for stamp in (5, 7):
        robot.publish_image(stamp)
        robot.wait(
            lambda stamp=stamp: node.intake._held and stamp_ns(node.intake._held) == stamp, "the image"
        )
        calibrate(stamp - 1, WIDTH)
    assert node.statistics.counts["waiting"] == 1
    assert "An image of 32x48 waited in vain for its calibration; /camera_info is" in capfd.readouterr().err


def test_an_image_of_before_1970_is_refused_and_survived(engine, robot, make_node) -> None:
    """ROS's own clock types know no such time: TF cannot be asked for it."""
    node = make_node(assume_optical_at_base=False)
    robot.publish_extrinsics()
    robot.publish_camera_info()
    robot.drive([SECOND])
    robot.publish_image(-SECOND)
    robot.wait(lambda: node.statistics.counts["refused"] == 1 or node.error, "the refusal")
    assert node.error is None
    assert "It is stamped -1.000000000 s" in node.statistics.problems["refused"][1]
    robot.drive([2 * SECOND])
    assert engine.seen == [SECOND, 2 * SECOND]


def stamp_ns(message) -> int:
    return stamp_to_ns(message.header.stamp)


def test_a_camera_may_be_restarted(engine, robot, make_node) -> None:
    make_node()
    robot.publish_camera_info()
    robot.drive([1])
    robot.node.destroy_publisher(robot.images)
    robot.node.destroy_publisher(robot.camera_infos)
    robot.spin_for(0.3)
    robot.images = robot.node.create_publisher(Image, "image", QoSProfile(depth=5))
    robot.camera_infos = robot.node.create_publisher(CameraInfo, "camera_info", QoSProfile(depth=5))
    robot.wait(robot.images.get_subscription_count, "each other")
    robot.drive([2])
    assert engine.seen == [1, 2]


@pytest.mark.parametrize(
    "lie",
    [
        {"height": 2**31},
        {"width": 2**32 - 1, "height": 2**32 - 1},
        {"step": 0},
        {"step": 2**32 - 1},
        {"data": []},
        {"encoding": "rgba8"},
    ],
)
def test_an_image_that_lies_is_refused_and_survived(engine, robot, make_node, lie: dict) -> None:
    node = make_node()
    robot.publish_camera_info()
    robot.drive([1])
    message = Image(
        header=Header(frame_id="camera", stamp=stamp_from_ns(2)),
        encoding="rgb8",
        width=WIDTH,
        height=HEIGHT,
        step=3 * WIDTH,
        data=bytes_field(np.zeros(3 * WIDTH * HEIGHT, np.uint8)),
    )
    for name, value in lie.items():
        setattr(message, name, value)
    robot.images.publish(message)
    robot.spin_for(0.2)
    robot.publish_camera_info()  # a size that does not fit is given one more chance
    robot.wait(lambda: node.statistics.counts["refused"] == 1, "the refusal")
    robot.drive([3])
    assert engine.seen == [1, 3]
