"""Depth maps survive their files, and what is no depth map is refused by name."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from dualrefine_ros.data.depth_files import list_depth_maps, read_depth, write_depth_png
from dualrefine_ros.errors import DataError

DEPTH = np.array([[0.5, 10.125, np.nan], [80.0, 255.99, 3.3]], np.float32)


def test_png_holds_metres_times_256(tmp_path: Path) -> None:
    write_depth_png(tmp_path / "d.png", DEPTH)
    stored = np.array(Image.open(tmp_path / "d.png"))  # an independent reader
    np.testing.assert_array_equal(stored, [[128, 2592, 0], [20480, 65533, 845]])
    np.testing.assert_allclose(read_depth(tmp_path / "d.png"), DEPTH, atol=0.5 / 256)


def test_png_never_turns_a_depth_into_none(tmp_path: Path) -> None:
    write_depth_png(tmp_path / "d.png", np.array([[1e-4, 1000.0]], np.float32))
    np.testing.assert_allclose(read_depth(tmp_path / "d.png"), [[1 / 256, 65535 / 256]])


def test_numpy_files(tmp_path: Path) -> None:
    np.savez_compressed(tmp_path / "named.npz", depth=DEPTH, other=np.zeros(3))
    np.savez_compressed(tmp_path / "only.npz", prediction=DEPTH[None].astype(np.float64))
    np.save(tmp_path / "plain.npy", np.where(np.isnan(DEPTH), 0, DEPTH))
    for name in ("named.npz", "only.npz", "plain.npy"):
        np.testing.assert_allclose(read_depth(tmp_path / name), DEPTH)


def test_names_are_frame_numbers(tmp_path: Path) -> None:
    for name in ("0000000069.png", "000005.npz", "left.npy", "notes.txt"):
        (tmp_path / name).touch()
    assert list(list_depth_maps(tmp_path)) == ["69", "5", "left"]
    (tmp_path / "69.npz").touch()
    with pytest.raises(DataError, match="the same frame"):
        list_depth_maps(tmp_path)


def test_of_a_map_in_two_formats_the_exact_one_is_read(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for name in ("000000.npz", "000000.png", "000001.png", "000002.npy", "000002.png"):
        (tmp_path / name).touch()
    chosen = [path.name for path in list_depth_maps(tmp_path).values()]
    assert chosen == ["000000.npz", "000001.png", "000002.npy"]
    assert "2 maps are there twice; first of .npz, .npy, .png is read" in caplog.text


def test_what_is_no_depth_map(tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "eight_bit.png"), np.zeros((4, 4), np.uint8))
    cv2.imwrite(str(tmp_path / "colour.png"), np.zeros((4, 4, 3), np.uint16))
    write_depth_png(tmp_path / "whole.png", np.random.default_rng(0).random((50, 50)).astype(np.float32))
    (tmp_path / "cut.png").write_bytes((tmp_path / "whole.png").read_bytes()[:40])
    (tmp_path / "empty.png").touch()
    (tmp_path / "text.npz").write_text("no archive")
    (tmp_path / "empty.npy").touch()
    np.savez(tmp_path / "two.npz", a=DEPTH, b=DEPTH)
    np.save(tmp_path / "vector.npy", DEPTH.ravel())
    for name in (
        "eight_bit.png",
        "colour.png",
        "cut.png",
        "empty.png",
        "text.npz",
        "empty.npy",
        "two.npz",
        "vector.npy",
        "absent.png",
    ):
        with pytest.raises(DataError, match=name):
            read_depth(tmp_path / name)
    with pytest.raises(DataError, match="no folder"):
        list_depth_maps(tmp_path / "absent")
    (tmp_path / "bare").mkdir()
    with pytest.raises(DataError, match="holds no depth map"):
        list_depth_maps(tmp_path / "bare")
