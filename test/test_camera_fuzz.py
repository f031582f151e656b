"""Any message whatever becomes a frame or a refusal: more than 10,000 of them."""

from __future__ import annotations

import io
import re
import struct
import zlib
from array import array
from collections import Counter

import numpy as np
import PIL.Image
import pytest
from geometry_msgs.msg import PoseWithCovarianceStamped
from hypothesis import given, settings
from hypothesis import strategies as st
from sensor_msgs.msg import CameraInfo, CompressedImage, Image

from dualrefine_ros.data.image_encoding import SUPPORTED_ENCODINGS
from dualrefine_ros.errors import DualRefineError, MessageError
from dualrefine_ros.ros.camera import Camera
from dualrefine_ros.ros.services import pose_and_covariance

any_float = st.floats(allow_nan=True, allow_infinity=True)
TAME = (0.0, 1.0, 1.0, 40.0, 0.3, -0.2, 1e30, -1e30, np.nan, np.inf)
LARGEST = 2**32 - 1


def any_size(random: np.random.Generator) -> int:
    return int(random.integers(1, 9) if random.random() < 0.7 else random.integers(0, LARGEST + 1))


def any_image(random: np.random.Generator) -> Image:
    """Mostly consistent, so that the lies are met one at a time; any field may lie."""
    height, width = (int(n) for n in random.integers(1, 9, 2))
    step = width * int(random.choice([1, 2, 3, 4, 4, 4, 4, 4])) + int(random.integers(0, 4))
    length = max(0, step * height + int(random.choice([0, 0, 0, 0, 0, 0, 0, 0, -1, 1])))
    image = Image(height=height, width=width, step=step, data=array("B", random.bytes(length)))
    image.encoding = str(random.choice([*SUPPORTED_ENCODINGS, "", "jpeg", "32FC1", "\u00e4 8"]))
    image.is_bigendian = int(random.integers(0, 256))
    if random.random() < 0.3:
        setattr(image, str(random.choice(["height", "width", "step"])), int(random.integers(0, LARGEST + 1)))
    image.header.stamp.sec = int(random.integers(-(2**31), 2**31))
    image.header.stamp.nanosec = int(random.integers(0, LARGEST + 1))
    return image


def any_camera_info(random: np.random.Generator, width: int, height: int) -> CameraInfo:
    def tame(count: int) -> list[float]:
        if random.random() < 0.9:
            return [float(number) for number in random.uniform(-0.3, 0.3, count)]
        return [float(number) for number in random.choice(TAME, count)]

    info = CameraInfo(width=width, height=height)
    models = ["plumb_bob", "rational_polynomial", "equidistant", "", "fisheye"]
    info.distortion_model = str(random.choice(models))
    if random.random() < 0.7:
        info.d = tame(int(random.choice([4, 5, 8, 12, 14, 3])))
    info.k = [30.0, 0.0, 2.0, 0.0, 30.0, 2.0, 0.0, 0.0, 1.0] if random.random() < 0.9 else tame(9)
    if random.random() < 0.1:
        info.p = tame(12)
    info.r = tame(9) if random.random() < 0.1 else np.eye(3).ravel()
    if random.random() < 0.1:
        info.binning_x, info.binning_y = any_size(random), any_size(random)
    if random.random() < 0.1:
        info.roi.x_offset, info.roi.y_offset = any_size(random), any_size(random)
        info.roi.width, info.roi.height = any_size(random), any_size(random)
    return info


def frame_or_refusal(camera: Camera, image: Image | CompressedImage, info: CameraInfo) -> bool:
    try:
        frame = camera.frame(image, info)
    except DualRefineError:
        return False
    assert frame.image.shape == (frame.intrinsics.height, frame.intrinsics.width, 3)
    assert frame.image.dtype == np.uint8
    assert np.isfinite(frame.intrinsics.matrix).all()
    assert min(frame.intrinsics.fx, frame.intrinsics.fy) > 0
    camera.rectified_info(image.header)
    return True


def any_pair(random: np.random.Generator) -> tuple[Camera, Image, CameraInfo]:
    image = any_image(random)
    width, height = image.width, image.height
    if random.random() < 0.2:
        width, height = any_size(random), any_size(random)
    return Camera(bool(random.random() < 0.5)), image, any_camera_info(random, width, height)


@given(st.integers(0, 2**64 - 1))
@settings(max_examples=8000, deadline=None)
def test_any_image_with_any_calibration(seed: int) -> None:
    frame_or_refusal(*any_pair(np.random.default_rng(seed)))


def test_the_fuzz_meets_everything() -> None:
    """Every kind of lie often enough, and dozens of ways to be refused."""
    met, sentences = Counter[str](), set()
    for seed in range(3000):
        camera, image, info = any_pair(np.random.default_rng(seed))
        met["data of another size"] += image.step * image.height != len(image.data)
        met["huge image"] += max(image.width, image.height) > 2**16
        met["huge calibration"] += max(info.width, info.height) > 2**16
        met["sizes that disagree"] += (info.width, info.height) != (image.width, image.height)
        met["intrinsics of NaN or infinity"] += not np.isfinite(info.k).all()
        met["distortion of NaN or infinity"] += not np.isfinite(info.d).all()
        met["distorted"] += any(info.d)
        met["region of interest"] += info.roi.width > 0
        met["binning"] += info.binning_x > 1
        try:
            camera.frame(image, info)
            met["a frame"] += 1
        except DualRefineError as error:
            sentences.add(re.sub(r"[-+\d.]+|nan|inf|'[^']*'", "", str(error))[:80])
    assert min(met.values()) >= 20, met
    assert len(sentences) > 25, sentences


def png(width: int, height: int) -> bytes:
    file = io.BytesIO()
    PIL.Image.new("RGB", (width, height), (1, 2, 3)).save(file, "PNG")
    return file.getvalue()


@given(
    damage=st.lists(st.tuples(st.integers(0, 80), st.integers(0, 255)), max_size=4),
    end=st.integers(0, 80) | st.just(10**6),
    junk=st.none() | st.binary(max_size=60),
)
@settings(max_examples=1500, deadline=None)
def test_any_compressed_image(damage, end, junk) -> None:
    data = bytearray(png(6, 4) if junk is None else junk)
    for at, value in damage:
        if at < len(data):
            data[at] = value
    info = CameraInfo(width=6, height=4)
    info.k = [30.0, 0.0, 2.0, 0.0, 30.0, 2.0, 0.0, 0.0, 1.0]
    message = CompressedImage(format="png", data=array("B", bytes(data[:end])))
    frame_or_refusal(Camera(rectified=True), message, info)


def test_a_small_file_that_claims_a_huge_image_is_not_decoded() -> None:
    header = b"IHDR" + struct.pack(">IIBBBBB", 60000, 60000, 8, 2, 0, 0, 0)
    data = png(6, 4)
    bomb = data[:8] + struct.pack(">I", 13) + header + struct.pack(">I", zlib.crc32(header)) + data[33:]
    info = CameraInfo(width=6, height=4)
    info.k = [30.0, 0.0, 2.0, 0.0, 30.0, 2.0, 0.0, 0.0, 1.0]
    with pytest.raises(DualRefineError):
        Camera(rectified=True).frame(CompressedImage(data=array("B", bomb)), info)


@given(
    st.lists(any_float, min_size=7, max_size=7),
    st.lists(st.sampled_from([0.0, 1.0]) | any_float, min_size=36, max_size=36) | st.just([0.0] * 36),
)
@settings(max_examples=1000, deadline=None)
def test_any_pose(numbers, covariance) -> None:
    message = PoseWithCovarianceStamped()
    message.header.frame_id = "odom"
    p, q = message.pose.pose.position, message.pose.pose.orientation
    p.x, p.y, p.z, q.x, q.y, q.z, q.w = numbers
    message.pose.covariance = covariance
    try:
        T, C = pose_and_covariance(message, "odom")
    except MessageError:
        return
    assert np.isfinite(T).all()
    assert np.isfinite(C).all()
    np.testing.assert_allclose(T[:3, :3] @ T[:3, :3].T, np.eye(3), atol=1e-6)
