"""Image buffers to RGB: every encoding against pixels packed by hand, and messages that lie."""

from __future__ import annotations

import array
import struct

import cv2
import numpy as np
import pytest

from dualrefine_ros.data.image_encoding import decode_compressed, decode_image
from dualrefine_ros.errors import MessageError

RGB = np.arange(2 * 4 * 3, dtype=np.uint8).reshape(2, 4, 3) * 10


def pack(rows: list[bytes], step: int) -> bytes:
    """Rows padded to ``step`` with a value that must never be seen."""
    return b"".join(row.ljust(step, b"\xee") for row in rows)


@pytest.mark.parametrize(
    ("encoding", "order"),
    [
        ("rgb8", (0, 1, 2)),
        ("bgr8", (2, 1, 0)),
        ("8UC3", (2, 1, 0)),
        ("rgba8", (0, 1, 2, None)),
        ("bgra8", (2, 1, 0, None)),
    ],
)
@pytest.mark.parametrize("padding", [0, 5])
def test_colour_orders_and_padding(encoding: str, order: tuple[int | None, ...], padding: int) -> None:
    rows = [bytes(255 if c is None else int(p[c]) for p in row for c in order) for row in RGB]
    step = 4 * len(order) + padding
    image = decode_image(pack(rows, step), 4, 2, step, encoding, False)
    np.testing.assert_array_equal(image, RGB)
    assert image.flags.c_contiguous
    assert image.flags.owndata  # nothing done to the message afterwards reaches it


@pytest.mark.parametrize(
    "container", [bytes, lambda b: array.array("B", b), lambda b: np.frombuffer(b, np.uint8)]
)
def test_accepts_what_rclpy_and_rosbags_hold(container) -> None:
    np.testing.assert_array_equal(decode_image(container(RGB.tobytes()), 4, 2, 12, "rgb8", 0), RGB)


@pytest.mark.parametrize("is_bigendian", [0, 1])
def test_mono16_scales_full_range_honouring_byte_order(is_bigendian: int) -> None:
    data = struct.pack(">4H" if is_bigendian else "<4H", 0, 257, 40 * 257 + 200, 65535)
    image = decode_image(data, 2, 2, 4, "mono16", is_bigendian)
    np.testing.assert_array_equal(image[..., 0], [[0, 1], [41, 255]])
    np.testing.assert_array_equal(image[..., 0], image[..., 2])


@pytest.mark.parametrize("encoding", ["mono8", "8UC1"])
def test_gray_becomes_three_equal_channels(encoding: str) -> None:
    image = decode_image(pack([b"\x01\x02", b"\x03\x04"], 3), 2, 2, 3, encoding, 0)
    np.testing.assert_array_equal(image, np.array([[1, 2], [3, 4]])[..., None].repeat(3, 2))


@pytest.mark.parametrize("pattern", ["rggb", "bggr", "gbrg", "grbg"])
def test_bayer_pattern_names_the_first_two_rows(pattern: str) -> None:
    colour = {"r": 200, "g": 100, "b": 30}
    mosaic = np.zeros((8, 8), np.uint8)
    for k, letter in enumerate(pattern):
        mosaic[k // 2 :: 2, k % 2 :: 2] = colour[letter]
    image = decode_image(mosaic.tobytes(), 8, 8, 8, f"bayer_{pattern}8", 0)
    np.testing.assert_array_equal(image[4, 4], [200, 100, 30])


@pytest.mark.parametrize(("encoding", "layout"), [("yuv422", "uyvy"), ("yuv422_yuy2", "yuyv")])
def test_yuv422_is_bt601_video_range(encoding: str, layout: str) -> None:
    y, u, v = 120, 90, 170
    data = bytes({"y": y, "u": u, "v": v}[letter] for letter in layout) * 4
    expected = [
        1.164 * (y - 16) + 1.596 * (v - 128),
        1.164 * (y - 16) - 0.813 * (v - 128) - 0.391 * (u - 128),
        1.164 * (y - 16) + 2.018 * (u - 128),
    ]
    image = decode_image(data, 4, 2, 8, encoding, 0)
    np.testing.assert_allclose(image, np.broadcast_to(expected, (2, 4, 3)), atol=1)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ((bytes(24), 4, 2, 12, "16UC1", 0), "16UC1"),
        ((bytes(24), 4, 2, 12, "", 0), "not supported"),
        ((bytes(24), 4, 2, 11, "rgb8", 0), "step"),
        ((bytes(23), 4, 2, 12, "rgb8", 0), "23 bytes"),
        ((bytes(25), 4, 2, 12, "rgb8", 0), "25 bytes"),
        ((b"", 0, 0, 0, "rgb8", 0), "0x0"),
        ((bytes(24), 4, 0, 12, "rgb8", 0), "4x0"),
        ((bytes(24), 2**32 - 1, 1, 24, "mono8", 0), "4294967295x1"),
        ((bytes(24), 4, 2**31, 12, "rgb8", 0), "2147483648"),
        ((bytes(12), 3, 2, 6, "yuv422", 0), "even"),
    ],
)
def test_a_message_that_lies_is_refused(fields: tuple, words: str) -> None:
    with pytest.raises(MessageError, match=words):
        decode_image(*fields)


@pytest.mark.parametrize("extension", [".png", ".jpg"])
def test_compressed_images_decode_and_cuts_are_noticed(extension: str) -> None:
    rgb = np.full((16, 24, 3), (200, 100, 30), np.uint8)
    encoded = cv2.imencode(extension, np.ascontiguousarray(rgb[..., ::-1]))[1].tobytes()
    np.testing.assert_allclose(decode_compressed(encoded), rgb, atol=2)
    for length in (0, 3, len(encoded) // 2, len(encoded) - 8):
        with pytest.raises(MessageError):
            decode_compressed(encoded[:length])


def test_a_jpeg_padded_with_zeros_is_whole() -> None:
    encoded = cv2.imencode(".jpg", np.zeros((8, 8, 3), np.uint8))[1].tobytes()
    assert decode_compressed(encoded + bytes(64)).shape == (8, 8, 3)


def test_noise_is_not_an_image() -> None:
    with pytest.raises(MessageError, match="JPEG or PNG"):
        decode_compressed(b"not an image at all")
