"""Messages to types and back, each against an oracle of its own: loops, struct, a matrix series."""

from __future__ import annotations

import struct
import sys
from array import array
from dataclasses import replace
from types import ModuleType

import numpy as np
import pytest
from builtin_interfaces.msg import Time
from geometry_msgs.msg import Quaternion, Transform, Vector3
from hypothesis import given, settings
from hypothesis import strategies as st
from node_harness import exponential
from sensor_msgs.msg import CameraInfo, Image
from std_msgs.msg import Header

from dualrefine_ros.data.rectification import CameraCalibration, Rectifier
from dualrefine_ros.errors import DualRefineError, InputError, MessageError
from dualrefine_ros.frame import Estimate, Intrinsics, Status
from dualrefine_ros.ros.base_odometry import T_BASE_OPTICAL, BaseOdometry, se3_log
from dualrefine_ros.ros.camera import Camera, calibration_of
from dualrefine_ros.ros.conversions import (
    camera_info_message,
    matrix_from_pose,
    matrix_from_transform,
    pose_message,
    rgb_from_image,
    rgb_image,
    stamp_from_ns,
    stamp_to_ns,
    transform_message,
    twist_message,
)
from dualrefine_ros.ros.depth_messages import depth_image

CHANNELS = {"rgb8": "rgb", "bgr8": "bgr", "rgba8": "rgba", "bgra8": "bgra", "mono8": "y"}
finite = st.floats(-100, 100)


def image_message(encoding: str, height: int, width: int, step: int, data: bytes, **fields: object) -> Image:
    return Image(encoding=encoding, height=height, width=width, step=step, data=array("B", data), **fields)


def camera_info(fx: float = 100.0, width: int = 4, height: int = 3) -> CameraInfo:
    info = CameraInfo(width=width, height=height)
    info.k = [fx, 0.0, 1.5, 0.0, fx + 1, 1.0, 0.0, 0.0, 1.0]
    return info


# --- stamps


@given(st.integers(-(2**31), 2**31 - 1), st.integers(0, 10**9 - 1))
def test_stamps_are_exact_both_ways(seconds: int, nanoseconds: int) -> None:
    stamp = Time(sec=seconds, nanosec=nanoseconds)
    assert stamp_to_ns(stamp) == seconds * 10**9 + nanoseconds
    assert stamp_from_ns(stamp_to_ns(stamp)) == stamp


# --- images


@given(
    encoding=st.sampled_from(sorted(CHANNELS)),
    height=st.integers(1, 5),
    width=st.integers(1, 6),
    padding=st.integers(0, 5),
    data=st.data(),
)
@settings(deadline=None)
def test_eight_bit_images_are_read_pixel_by_pixel(encoding, height, width, padding, data) -> None:
    names = CHANNELS[encoding]
    step = width * len(names) + padding
    raw = data.draw(st.binary(min_size=step * height, max_size=step * height))
    rgb = rgb_from_image(image_message(encoding, height, width, step, raw))
    assert rgb.shape == (height, width, 3)
    assert rgb.dtype == np.uint8
    assert rgb.flags.c_contiguous
    for row in range(height):
        for column in range(width):
            pixel = dict(zip(names, raw[row * step + column * len(names) :], strict=False))
            for channel, name in enumerate("rgb"):
                assert rgb[row, column, channel] == pixel.get(name, pixel.get("y"))


@given(
    big=st.booleans(),
    padding=st.integers(0, 3),
    values=st.lists(st.integers(0, 65535), min_size=6, max_size=6),
)
@settings(deadline=None)
def test_mono16_keeps_its_full_range_in_either_byte_order(big, padding, values) -> None:
    pack = (">" if big else "<") + "3H"
    rows = [struct.pack(pack, *values[i : i + 3]) + bytes(padding) for i in (0, 3)]
    rgb = rgb_from_image(image_message("mono16", 2, 3, 6 + padding, b"".join(rows), is_bigendian=int(big)))
    expected = [int(value / 65535 * 255 + 0.5) for value in values]
    for channel in range(3):
        assert rgb[:, :, channel].ravel().tolist() == expected


@given(
    encoding=st.sampled_from([*CHANNELS, "mono16", "bayer_rggb8", "yuv422", "32FC1", "", "jpeg"]),
    height=st.integers(0, 2**32 - 1) | st.integers(0, 4),
    width=st.integers(0, 2**32 - 1) | st.integers(0, 4),
    step=st.integers(0, 2**32 - 1) | st.integers(0, 16),
    data=st.binary(max_size=64),
)
@settings(max_examples=2000, deadline=None)
def test_sizes_that_lie_are_refused_never_crash(encoding, height, width, step, data) -> None:
    message = image_message(encoding, height, width, step, data)
    try:
        rgb = rgb_from_image(message)
    except MessageError:
        return
    assert rgb.shape == (height, width, 3)  # so it was no lie
    assert len(data) == step * height


@pytest.mark.parametrize(
    ("height", "width", "step", "size"),
    [(3, 4, 12, 35), (3, 4, 12, 37), (3, 4, 11, 33), (0, 4, 12, 0), (3, 0, 12, 36), (2**31, 4, 12, 36)],
)
def test_each_lie_about_size_is_an_error(height: int, width: int, step: int, size: int) -> None:
    with pytest.raises(MessageError):
        rgb_from_image(image_message("rgb8", height, width, step, bytes(size)))


def install_cv_bridge(monkeypatch: pytest.MonkeyPatch, answer: object) -> None:
    """Put a cv_bridge into place whose bridge gives, or raises, ``answer``."""

    class CvBridge:
        def imgmsg_to_cv2(self, message: Image, desired_encoding: str) -> object:
            assert desired_encoding == "rgb8"
            if isinstance(answer, Exception):
                raise answer
            return answer

    module = ModuleType("cv_bridge")
    module.CvBridge = CvBridge  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "cv_bridge", module)


def test_other_encodings_go_through_cv_bridge(monkeypatch: pytest.MonkeyPatch) -> None:
    picture = np.arange(36, dtype=np.uint8).reshape(3, 4, 3)
    install_cv_bridge(monkeypatch, picture)
    message = image_message("nv12", 3, 4, 4, bytes(12))
    np.testing.assert_array_equal(rgb_from_image(message), picture)


@pytest.mark.parametrize("answer", [ValueError("no conversion"), np.zeros((3, 4, 3), np.float32), None])
def test_a_cv_bridge_that_fails_is_an_error_naming_the_encoding(monkeypatch, answer) -> None:
    install_cv_bridge(monkeypatch, answer)
    with pytest.raises(MessageError, match="'nv12'"):
        rgb_from_image(image_message("nv12", 3, 4, 4, bytes(12)))


def test_without_cv_bridge_the_error_names_the_encoding(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cv_bridge", None)  # an import of it raises ImportError
    with pytest.raises(MessageError, match=r"'nv12'.*install it, or publish one of rgb8"):
        rgb_from_image(image_message("nv12", 3, 4, 4, bytes(12)))


# --- calibration


def test_a_rectified_topic_uses_p_else_k() -> None:
    info = camera_info(fx=100.0)
    unrectified = calibration_of(info, rectified=True).rectified
    assert (unrectified.fx, unrectified.fy, unrectified.cx, unrectified.cy) == (100.0, 101.0, 1.5, 1.0)
    info.p = [90.0, 0.0, 1.25, -7.0, 0.0, 91.0, 0.75, 0.0, 0.0, 0.0, 1.0, 0.0]
    rectified = calibration_of(info, rectified=True).rectified
    assert (rectified.fx, rectified.fy, rectified.cx, rectified.cy) == (90.0, 91.0, 1.25, 0.75)
    assert (rectified.width, rectified.height) == (4, 3)


def test_a_new_calibration_counts_at_once_and_is_prepared_once(monkeypatch: pytest.MonkeyPatch) -> None:
    prepared = []

    def rectifier(calibration: CameraCalibration) -> Rectifier:
        prepared.append(calibration)
        return Rectifier(calibration)

    monkeypatch.setattr("dualrefine_ros.ros.camera.Rectifier", rectifier)
    camera = Camera(rectified=False)
    pinhole, barrel, pincushion = camera_info(fx=4.0), camera_info(fx=4.0), camera_info(fx=4.0)
    for info, k1 in ((barrel, -0.3), (pincushion, 0.3)):
        info.distortion_model, info.d = "plumb_bob", [k1, 0.0, 0.0, 0.0, 0.0]
    pixels = np.arange(36, dtype=np.uint8)
    image = image_message("rgb8", 3, 4, 12, pixels.tobytes())
    named = {"pinhole": pinhole, "barrel": barrel, "again": barrel, "pincushion": pincushion, "back": pinhole}
    seen = {}
    for name, info in named.items():
        frame = camera.frame(image, info)
        seen[name] = (frame.image.tobytes(), frame.intrinsics)
    assert seen["pinhole"] == seen["back"] == (pixels.tobytes(), calibration_of(pinhole, False).rectified)
    assert seen["barrel"] == seen["again"]
    assert len({seen[name] for name in ("pinhole", "barrel", "pincushion")}) == 3
    assert len(prepared) == 2


def test_an_uncalibrated_camera_is_refused() -> None:
    with pytest.raises(MessageError, match="not calibrated"):
        calibration_of(CameraInfo(width=4, height=3), rectified=True)


@given(
    k=st.lists(st.floats(), min_size=9, max_size=9),
    p=st.lists(st.floats(), min_size=12, max_size=12),
    width=st.integers(0, 2**32 - 1),
    height=st.integers(0, 2**32 - 1),
)
@settings(max_examples=500, deadline=None)
def test_any_calibration_is_usable_or_refused(k, p, width, height) -> None:
    info = CameraInfo(width=width, height=height)
    info.k, info.p = k, p
    try:
        intrinsics = calibration_of(info, rectified=True).rectified
    except MessageError:
        return
    assert np.isfinite(intrinsics.matrix).all()
    assert min(intrinsics.fx, intrinsics.fy, intrinsics.width, intrinsics.height) > 0


def test_a_frame_takes_the_image_stamp_and_needs_its_calibration() -> None:
    header = Header(stamp=Time(sec=12, nanosec=345678901), frame_id="camera")
    message = image_message("rgb8", 3, 4, 12, bytes(range(36)), header=header)
    frame = Camera(rectified=True).frame(message, camera_info())
    assert frame.stamp_ns == 12_345_678_901
    assert frame.image[0, 1].tolist() == [3, 4, 5]
    with pytest.raises(InputError, match="4x3"):
        Camera(rectified=True).frame(message, camera_info(width=8))


def test_a_frame_survives_the_round_trip_through_messages() -> None:
    header = Header(stamp=Time(sec=1, nanosec=999_999_999), frame_id="camera")
    rgb = np.random.default_rng(0).integers(0, 256, (3, 5, 3), np.uint8)
    intrinsics = Intrinsics(701.25, 702.5, 2.125, 1.0625, 5, 3)
    image, info = rgb_image(rgb, header), camera_info_message(intrinsics, header)
    assert info.header == image.header == header
    assert info.p.tolist() == [701.25, 0, 2.125, 0, 0, 702.5, 1.0625, 0, 0, 0, 1, 0]
    assert info.k.tolist() == [701.25, 0, 2.125, 0, 702.5, 1.0625, 0, 0, 1]
    frame = Camera(rectified=True).frame(image, info)
    np.testing.assert_array_equal(frame.image, rgb)
    assert (frame.intrinsics, frame.stamp_ns) == (intrinsics, 1_999_999_999)


# --- depth


def test_depth_is_32fc1_with_nan_for_no_value() -> None:
    header = Header(stamp=Time(sec=1, nanosec=2), frame_id="camera")
    depth = np.array([[1.5, 0.0, -1.0], [np.inf, np.nan, 80.25]], np.float32)
    message = depth_image(depth, header)
    assert message.header == header
    assert (message.encoding, message.height, message.width, message.step) == ("32FC1", 2, 3, 12)
    assert not message.is_bigendian
    assert len(message.data) == message.step * message.height
    values = struct.unpack("<6f", bytes(message.data))
    assert values[0] == 1.5
    assert values[5] == 80.25
    assert all(np.isnan(value) for value in values[1:5])


# --- rigid motions


twists = st.tuples(finite, finite, finite, *[st.floats(-1.5, 1.5)] * 3).map(np.array)


@given(twists)
@settings(deadline=None)
def test_transforms_survive_the_round_trip(xi: np.ndarray) -> None:
    T = exponential(xi)
    np.testing.assert_allclose(matrix_from_transform(transform_message(T)), T, atol=1e-9)
    np.testing.assert_allclose(matrix_from_pose(pose_message(T)), T, atol=1e-9)


def test_a_quarter_turn_to_the_left_as_a_message() -> None:
    T = np.array([[0.0, -1, 0, 1], [1, 0, 0, 2], [0, 0, 1, 3], [0, 0, 0, 1]])
    pose, transform = pose_message(T), transform_message(T)
    for position in (pose.position, transform.translation):
        assert (position.x, position.y, position.z) == (1.0, 2.0, 3.0)
    for q in (pose.orientation, transform.rotation):
        np.testing.assert_allclose([q.x, q.y, q.z, q.w], [0, 0, np.sqrt(0.5), np.sqrt(0.5)], atol=1e-12)


@pytest.mark.parametrize("quaternion", [(0.0, 0.0, 0.0, 0.0), (np.nan, 0.0, 0.0, 1.0)])
def test_a_transform_that_is_none_is_refused(quaternion: tuple[float, ...]) -> None:
    x, y, z, w = quaternion
    with pytest.raises(DualRefineError, match="no rigid motion"):
        matrix_from_transform(Transform(translation=Vector3(), rotation=Quaternion(x=x, y=y, z=z, w=w)))


@given(twists)
@settings(deadline=None)
def test_the_logarithm_inverts_the_exponential(xi: np.ndarray) -> None:
    np.testing.assert_allclose(se3_log(exponential(xi)), xi, atol=1e-7)


def test_the_optical_axes_of_a_camera_at_the_base() -> None:
    right, down, forward = T_BASE_OPTICAL[:3, :3].T
    assert right.tolist() == [0, -1, 0]  # the base's y axis points left
    assert down.tolist() == [0, 0, -1]  # its z axis up
    assert forward.tolist() == [1, 0, 0]


# --- motion of the base


def estimate(stamp_ns: int, T_world_cam: np.ndarray) -> Estimate:
    return Estimate(stamp_ns, Status.TRACKING, np.ones((2, 2), np.float32), T_world_cam)


def test_driving_forward_with_a_camera_that_looks_left() -> None:
    """The camera sits 2 m ahead and looks left: its right is ahead, its forward is the base's left."""
    T_base_cam = np.array([[1.0, 0, 0, 2], [0, 0, 1, 0], [0, -1, 0, 1], [0, 0, 0, 1]])
    odometry = BaseOdometry()
    first = odometry.update(estimate(0, np.eye(4)), T_base_cam)
    np.testing.assert_allclose(first.T_odom_base, np.eye(4), atol=1e-12)
    np.testing.assert_array_equal(first.twist, np.zeros(6))
    T_world_cam = np.eye(4)
    T_world_cam[0, 3] = 0.5  # half a metre to the camera's right
    second = odometry.update(estimate(250_000_000, T_world_cam), T_base_cam)
    np.testing.assert_allclose(second.T_odom_base[:3, 3], [0.5, 0, 0], atol=1e-12)
    np.testing.assert_allclose(second.twist, [2, 0, 0, 0, 0, 0], atol=1e-12)


def test_turning_on_the_spot_moves_the_camera_but_not_the_base() -> None:
    """A base that turns left at 1 rad/s carries a camera, 2 m ahead of it, around itself."""
    T_base_cam = T_BASE_OPTICAL.copy()
    T_base_cam[0, 3] = 2.0
    odometry = BaseOdometry()
    for tenths in range(11):
        angle = tenths / 10
        T_odom_base = exponential(np.array([0, 0, 0, 0, 0, angle]))
        T_world_cam = np.linalg.inv(T_base_cam) @ T_odom_base @ T_base_cam
        motion = odometry.update(estimate(tenths * 100_000_000, T_world_cam), T_base_cam)
        np.testing.assert_allclose(motion.T_odom_base, T_odom_base, atol=1e-12)
    np.testing.assert_allclose(motion.twist, [0, 0, 0, 0, 0, 1], atol=1e-9)


def test_a_camera_that_turns_on_a_base_that_stands_still() -> None:
    """The extrinsics move, as on a pan-tilt head: TF and the engine agree that the base does not."""
    odometry = BaseOdometry()
    for angle in (0.0, 0.2, 0.5):
        T_base_cam = exponential(np.array([0, 0, 0, 0, 0, angle])) @ T_BASE_OPTICAL
        T_world_cam = np.linalg.inv(T_BASE_OPTICAL) @ T_base_cam
        motion = odometry.update(estimate(round(angle * 1e9), T_world_cam), T_base_cam)
        np.testing.assert_allclose(motion.T_odom_base, np.eye(4), atol=1e-12)


def test_the_velocity_after_a_lost_frame_is_of_all_the_time_since_the_last_good_one() -> None:
    odometry = BaseOdometry()
    odometry.update(estimate(0, np.eye(4)), T_BASE_OPTICAL)
    odometry.update(replace(estimate(100_000_000, np.eye(4)), status=Status.LOST), T_BASE_OPTICAL)
    T_world_cam = np.eye(4)
    T_world_cam[2, 3] = 1.0
    found = odometry.update(estimate(200_000_000, T_world_cam), T_BASE_OPTICAL)
    np.testing.assert_allclose(found.twist, [5, 0, 0, 0, 0, 0], atol=1e-12)


def test_a_twist_message_holds_translation_then_rotation() -> None:
    twist = twist_message(np.arange(1.0, 7.0))
    assert (twist.linear.x, twist.linear.y, twist.linear.z) == (1.0, 2.0, 3.0)
    assert (twist.angular.x, twist.angular.y, twist.angular.z) == (4.0, 5.0, 6.0)
