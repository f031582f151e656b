"""KITTI odometry folders: geometry of the four cameras, missing images, and files that are wrong."""

from __future__ import annotations

import logging
import pickle
from pathlib import Path

import cv2
import numpy as np
import pytest
from kitti_folders import HEIGHT, P4, WIDTH, K, camera0_poses, replace_line, write_sequence

from dualrefine_ros.data.source import open_source
from dualrefine_ros.errors import DataError


def test_frames_come_in_order_with_exact_stamps(tmp_path: Path) -> None:
    source = open_source(write_sequence(tmp_path / "clip"))
    frames = list(source)
    assert [f.stamp_ns for f in frames] == [0, 100_000_000, 200_000_000, 300_000_000]
    assert [int(f.image[0, 0, 0]) for f in frames] == [0, 10, 20, 30]
    assert frames[0].intrinsics.matrix.tolist() == K.tolist()
    assert (source.name, len(source), source.skipped) == ("clip", 4, 0)


def test_gray_images_have_three_equal_channels(tmp_path: Path) -> None:
    frame = open_source(write_sequence(tmp_path, cameras=(0, 1)))[1]
    assert frame.image.shape == (HEIGHT, WIDTH, 3)
    assert np.unique(frame.image).tolist() == [10]


@pytest.mark.parametrize(("cameras", "chosen"), [((0, 1, 2, 3), 2), ((0, 3), 3), ((0, 1), 0), ((1,), 1)])
def test_prefers_the_left_colour_camera(tmp_path: Path, cameras: tuple[int, ...], chosen: int) -> None:
    source = open_source(write_sequence(tmp_path, cameras))
    np.testing.assert_allclose(K @ -source.T_cam0_cam[:3, 3], P4[chosen], atol=1e-12)


@pytest.mark.parametrize("camera", [0, 1, 2, 3])
def test_ground_truth_is_that_of_the_camera_not_of_camera_0(tmp_path: Path, camera: int) -> None:
    """A world point is seen at the same pixel by P at camera 0's pose and by K at the frame's pose."""
    source = open_source(write_sequence(tmp_path, (camera,)), camera=camera)
    X_world = np.array([0.7, -0.4, 12.0, 1.0])
    for frame, T_world_cam0 in zip(source, camera0_poses(4), strict=True):
        X_cam0 = np.linalg.inv(np.vstack([T_world_cam0, [0, 0, 0, 1]])) @ X_world
        expected = np.column_stack([K, P4[camera]]) @ X_cam0
        seen = K @ (np.linalg.inv(frame.T_world_cam) @ X_world)[:3]
        np.testing.assert_allclose(seen[:2] / seen[2], expected[:2] / expected[2], rtol=1e-12)


def test_numbers_with_gaps_one_line_an_image(tmp_path: Path) -> None:
    source = open_source(write_sequence(tmp_path, frame_ids=(0, 1, 4, 5)))
    assert [source.frame_id(i) for i in range(4)] == [0, 1, 4, 5]
    assert source.index_of(4) == 2
    assert source[2].stamp_ns == 400_000_000
    np.testing.assert_allclose(source[2].T_world_cam[2, 3] + source.T_cam0_cam[2, 3], 2, atol=0.05)
    assert source.ground_truth.frames.tolist() == [0, 1, 4, 5]
    with pytest.raises(DataError, match="no frame 3"):
        source.index_of(3)


def test_a_part_of_a_sequence_takes_its_lines_by_frame_number(tmp_path: Path) -> None:
    folder = write_sequence(tmp_path / "sequences" / "03", frame_ids=tuple(range(8)))
    for missing in (0, 2, 7):
        (folder / "image_2" / f"{missing:06d}.png").unlink()
    source = open_source(tmp_path, sequence="3")
    assert [f.stamp_ns // 100_000_000 for f in source] == [1, 3, 4, 5, 6]
    assert [round(f.T_world_cam[2, 3]) for f in source] == [1, 3, 4, 5, 6]


def test_poses_of_the_official_layout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write_sequence(tmp_path / "sequences" / "09")
    (tmp_path / "poses").mkdir()
    (folder / "poses.txt").rename(tmp_path / "poses" / "09.txt")
    assert len(open_source(folder).ground_truth) == 4
    monkeypatch.chdir(folder)
    assert len(open_source(".").ground_truth) == 4
    assert open_source(".").name == "09"
    (tmp_path / "poses" / "09.txt").unlink()
    assert open_source(folder).ground_truth is None
    assert open_source(folder)[0].T_world_cam is None


def test_tum_ground_truth_is_matched_by_stamp(tmp_path: Path) -> None:
    folder = write_sequence(tmp_path)
    (folder / "poses.txt").unlink()
    (folder / "ground_truth_tum.txt").write_text(
        "0.1 1 0 0 0 0 0 1\n0.2004 5 0 0 0 0 0 1\n0.25 9 0 0 0 0 0 1\n"
    )
    poses = [f.T_world_cam for f in open_source(folder)]
    assert [None if T is None else float(T[0, 3]) for T in poses] == [None, 1.0, 5.0, None]


def test_corrupt_images_are_reported_skipped_and_counted(tmp_path: Path, caplog) -> None:
    folder = write_sequence(tmp_path, frame_ids=tuple(range(5)))
    images = folder / "image_2"
    whole = (images / "000000.png").read_bytes()
    (images / "000000.png").write_bytes(whole[: len(whole) // 2])
    (images / "000002.png").write_bytes(b"")
    cv2.imwrite(str(images / "000003.png"), np.zeros((5, 7, 3), np.uint8))
    source = open_source(folder)
    with caplog.at_level(logging.WARNING):
        assert [f.stamp_ns // 100_000_000 for f in source] == [1, 4]
    assert source.skipped == 3
    for name in ("000000.png", "000002.png", "000003.png is 7x5"):
        assert name in caplog.text
    assert [f.stamp_ns // 100_000_000 for f in source] == [1, 4]
    assert source.skipped == 3, "a second pass counts anew"
    with pytest.raises(DataError, match="000002"):
        source[2]


def test_one_image_of_another_size_does_not_decide(tmp_path: Path) -> None:
    folder = write_sequence(tmp_path, frame_ids=tuple(range(5)))
    cv2.imwrite(str(folder / "image_2" / "000000.png"), np.zeros((5, 7, 3), np.uint8))
    source = open_source(folder)
    assert (source.intrinsics.width, source.intrinsics.height) == (WIDTH, HEIGHT)
    assert [f.stamp_ns // 100_000_000 for f in source] == [1, 2, 3, 4]


def test_what_only_looks_like_an_image_is_none(tmp_path: Path) -> None:
    folder = write_sequence(tmp_path)
    (folder / "image_2" / "._000000.png").write_bytes(b"macOS leaves these on foreign disks")
    (folder / "image_2" / "thumbnails.png").mkdir()
    source = open_source(folder)
    assert len(list(source)) == len(source) == 4


def test_one_frame_is_a_source(tmp_path: Path) -> None:
    assert len(list(open_source(write_sequence(tmp_path, frame_ids=(0,))))) == 1


def test_a_source_survives_pickling(tmp_path: Path) -> None:
    source = pickle.loads(pickle.dumps(open_source(write_sequence(tmp_path))))
    np.testing.assert_array_equal(source[3].image, 30)


ZEROS = " ".join("0" for _ in range(12))


@pytest.mark.parametrize(
    ("file", "line", "text", "words"),
    [
        ("poses.txt", 2, " ".join(["1.0"] * 11), r"poses\.txt, line 2: 11 columns"),
        ("poses.txt", 3, ZEROS, r"poses\.txt, line 3.*rotation"),
        ("times.txt", 3, "0.1", r"times\.txt, line 3.*not after"),
        ("times.txt", 2, "soon", r"times\.txt, line 2.*soon"),
        ("calib.txt", 3, "P2: 1 2 3", r"calib\.txt, line 3: 12 finite numbers"),
        ("calib.txt", 3, "P2: 1 2 x", r"calib\.txt, line 3.*'x'"),
        ("calib.txt", 3, "no key", r"calib\.txt, line 3: 'key: numbers'"),
        ("calib.txt", 3, "P9: 1", r"calib\.txt has no line 'P2:'"),
        ("calib.txt", 3, f"P2: {ZEROS}", r"calib\.txt, P2: The focal lengths must be positive"),
        ("calib.txt", 3, f"P2: nan {ZEROS[2:]}", r"calib\.txt, line 3"),
    ],
)
def test_a_malformed_line_is_named(tmp_path: Path, file: str, line: int, text: str, words: str) -> None:
    folder = write_sequence(tmp_path)
    replace_line(folder / file, line, text)
    with pytest.raises(DataError, match=words) as caught:
        open_source(folder)
    assert str(folder) in str(caught.value)


@pytest.mark.parametrize("file", ["calib.txt", "times.txt"])
def test_a_missing_file_is_named(tmp_path: Path, file: str) -> None:
    folder = write_sequence(tmp_path)
    (folder / file).unlink()
    with pytest.raises(DataError, match=f"{file} does not exist"):
        open_source(folder)


def test_too_few_poses(tmp_path: Path) -> None:
    folder = write_sequence(tmp_path)
    np.savetxt(folder / "poses.txt", camera0_poses(3).reshape(-1, 12))
    with pytest.raises(DataError, match="has 3 lines for 4 images"):
        open_source(folder)


def test_folders_that_are_no_source(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="does not exist"):
        open_source(tmp_path / "nothing")
    with pytest.raises(DataError, match="no recording known"):
        open_source(tmp_path)
    folder = write_sequence(tmp_path / "sequences" / "05")
    with pytest.raises(DataError, match="holds sequences 05"):
        open_source(tmp_path)
    with pytest.raises(DataError, match="no sequence 07"):
        open_source(tmp_path, sequence="07")
    with pytest.raises(DataError, match="no images of camera 1: there is 2"):
        open_source(folder, camera=1)
    with pytest.raises(DataError, match="'topic' does not apply"):
        open_source(folder, topic="/camera")
    for image in (folder / "image_2").iterdir():
        image.write_bytes(b"damaged")
    with pytest.raises(DataError, match="None of the 4 images"):
        open_source(folder)
    for image in (folder / "image_2").iterdir():
        image.unlink()
    with pytest.raises(DataError, match="no PNG or JPEG image"):
        open_source(folder)
    (folder / "image_2" / "first.png").write_bytes(b"")
    with pytest.raises(DataError, match=r"first\.png is not named by its frame number"):
        open_source(folder)
