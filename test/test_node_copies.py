"""How often the node copies an image on its way in and a depth map on its way out.

Counted by the memory that is asked for: NumPy and array.array report theirs to tracemalloc.
"""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from std_msgs.msg import Header

from dualrefine_ros.gates import look_at
from dualrefine_ros.ros.conversions import rgb_from_image, rgb_image
from dualrefine_ros.ros.depth_messages import depth_image

HEIGHT, WIDTH = 375, 1242


def peak_bytes(work: Callable[[], Any]) -> int:
    """Memory that is in use at once, at most, while it works."""
    kept = [work()]  # what is made once only, such as imports, is not of the second time
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        kept.append(work())
        return tracemalloc.get_traced_memory()[1] - before
    finally:
        tracemalloc.stop()


@pytest.fixture(scope="module")
def image() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)


def test_the_count_sees_copies(image: np.ndarray) -> None:
    assert peak_bytes(lambda: image.copy()) >= image.nbytes
    assert peak_bytes(lambda: image.copy().copy()) >= 2 * image.nbytes
    assert peak_bytes(lambda: image[:]) < 0.01 * image.nbytes


def test_an_image_is_copied_once_on_its_way_in(image: np.ndarray) -> None:
    message = rgb_image(image, Header())
    assert peak_bytes(lambda: rgb_from_image(message)) < 1.05 * image.nbytes
    decoded = rgb_from_image(message)
    assert not np.shares_memory(decoded, np.frombuffer(message.data, np.uint8))
    np.testing.assert_array_equal(decoded, image)


def test_a_look_at_an_image_copies_it_not_even_once(image: np.ndarray) -> None:
    look_at(image, None)
    assert peak_bytes(lambda: look_at(image, None)) < 0.9 * image.nbytes


def test_a_depth_map_is_copied_once_on_its_way_out() -> None:
    """Beside it, only whether each pixel is wrong: a byte for its four."""
    depth = np.random.default_rng(0).uniform(0.1, 80, (HEIGHT, WIDTH)).astype(np.float32)
    depth[3, 4] = np.nan
    assert peak_bytes(lambda: depth_image(depth, Header())) < 1.55 * depth.nbytes
    message = depth_image(depth, Header())
    np.testing.assert_array_equal(np.frombuffer(message.data, np.float32).reshape(depth.shape), depth)
