"""Triplets: which frames, in which order, and what broken images do."""

from __future__ import annotations

import errno
import os
import sys
from pathlib import Path
from shutil import rmtree

import cv2
import numpy as np
import pytest
import torch
import yaml
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parent))
from training_helpers import INTRINSICS, texture, write_drive

from dualrefine_ros.data.source import open_source
from dualrefine_ros.errors import ConfigError, DataError
from dualrefine_ros.tools.main import main
from dualrefine_ros.training.augmentation import AugmentationConfig
from dualrefine_ros.training.datamodule import TripletData
from dualrefine_ros.training.frame_cache import CachedRecording, cache_recording
from dualrefine_ros.training.triplets import EpochOrder, Triplets, find_centres

HEIGHT, WIDTH = 64, 96
CALIBRATION = {
    "image_width": WIDTH,
    "image_height": HEIGHT,
    "camera_matrix": {"data": [60.0, 0, 47.5, 0, 60, 31.5, 0, 0, 1]},
    "distortion_coefficients": {"data": [0.0] * 5},
    "projection_matrix": {"data": [60.0, 0, 47.5, 0, 0, 60, 31.5, 0, 0, 0, 1, 0]},
}
PLAIN = AugmentationConfig(flip=0, jitter=0)


def cached(folder: Path, cache: Path) -> CachedRecording:
    return cache_recording(open_source(folder), {"path": str(folder)}, HEIGHT, WIDTH, cache)


def number_of(image: Tensor) -> int:
    """Which frame of the drive an image is: its first column's place on the wall, in steps of 3 pixels."""
    wall = texture(HEIGHT, WIDTH + 3 * 8)
    column = image[:, :, 0].permute(1, 0).numpy()
    return int(np.abs(wall.astype(int) - column[:, None]).sum((0, 2)).argmin()) // 3


@pytest.fixture
def drive(tmp_path: Path) -> Path:
    return write_drive(tmp_path / "wall", frames=8)


def centres_of(recording: CachedRecording, **options: object) -> list[tuple[int, tuple[int, ...]]]:
    found = find_centres([recording], [None], **{"strides": (1,), "min_change": 0.0, **options})
    return [(centre.row, centre.strides) for centre in found]


def test_cache_keeps_pixels_and_scales_intrinsics(drive: Path, tmp_path: Path) -> None:
    recording = cache_recording(open_source(drive), {}, HEIGHT // 2, WIDTH // 2, tmp_path / "cache")
    assert recording.pixels.get().shape == (8, HEIGHT // 2, WIDTH // 2, 3)
    assert recording.intrinsics == pytest.approx(np.array(INTRINSICS) / 2)
    same_size = cached(drive, tmp_path / "cache")
    assert np.array_equal(same_size.pixels.get()[3], open_source(drive)[3].image)


def test_cache_is_read_again_without_decoding(
    drive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = cached(drive, tmp_path / "cache").pixels.get().copy()
    monkeypatch.setattr(
        "dualrefine_ros.data.image_files.read_image", lambda path: pytest.fail(f"read {path}")
    )
    assert np.array_equal(cached(drive, tmp_path / "cache").pixels.get(), first)


@pytest.mark.parametrize("as_bag", [False, True])
def test_a_recording_edited_in_place_is_read_anew(as_bag: bool, drive: Path, tmp_path: Path) -> None:
    def recording() -> Path:
        if not as_bag:
            return drive
        rmtree(tmp_path / "bag", ignore_errors=True)
        assert main(["kitti-to-bag", str(drive), str(tmp_path / "bag")]) == 0
        return tmp_path / "bag"

    stale = cached(recording(), tmp_path / "cache").pixels.get()[3].copy()
    edited = drive / "image_2" / "000003.png"
    pixels = cv2.imread(str(edited))[::-1, ::-1]  # as many bytes raw, about as many packed
    cv2.imwrite(str(edited), pixels)
    fresh = cached(recording(), tmp_path / "cache").pixels.get()[3]
    assert np.array_equal(fresh, pixels[..., ::-1])
    assert not np.array_equal(fresh, stale)


def test_another_calibration_rectifies_anew(drive: Path, tmp_path: Path) -> None:
    images = drive / "image_2"

    def calibrated(distortion: float) -> np.ndarray:
        camera = CALIBRATION | {"distortion_coefficients": {"data": [distortion, 0, 0, 0, 0]}}
        (images / "camera.yaml").write_text(yaml.safe_dump(camera))
        source = open_source(images, rate=10.0)
        return cache_recording(source, {}, HEIGHT, WIDTH, tmp_path / "cache").pixels.get()[0].copy()

    assert not np.array_equal(calibrated(-0.2), calibrated(-0.3))


def test_broken_images_are_left_out_and_counted(drive: Path, tmp_path: Path, caplog) -> None:
    (drive / "image_2" / "000003.png").write_bytes(b"no image")
    recording = cached(drive, tmp_path)
    assert recording.readable.tolist() == [index != 3 for index in range(8)]
    assert "1 of 8 frames cannot be read" in caplog.text
    assert [row for row, _ in centres_of(recording)] == [1, 5, 6]


def test_a_recording_without_any_readable_image_is_refused(drive: Path, tmp_path: Path) -> None:
    source = open_source(drive)
    for image in (drive / "image_2").iterdir():
        image.write_bytes(b"no image")
    with pytest.raises(DataError, match="not one frame can be read"):
        cache_recording(source, {}, HEIGHT, WIDTH, tmp_path)


def test_no_triplet_crosses_a_gap(drive: Path, tmp_path: Path) -> None:
    (drive / "image_2" / "000004.png").unlink()
    recording = cached(drive, tmp_path)
    assert recording.frame_ids.tolist() == [0, 1, 2, 3, 5, 6, 7]
    assert centres_of(recording) == [(1, (1,)), (2, (1,)), (5, (1,))]
    # frame 5 has frames 3 and 7 two away, though not 4
    assert centres_of(recording, strides=(1, 2)) == [
        (1, (1,)),
        (2, (1,)),
        (3, (2,)),
        (4, (2,)),
        (5, (1,)),
    ]


@pytest.mark.parametrize("as_bag", [True, False], ids=["bag", "time-named files"])
def test_no_triplet_crosses_a_gap_that_only_the_stamps_tell(
    drive: Path, tmp_path: Path, as_bag: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """Ten images a second, one missing after the fourth: such recordings number what is there."""
    images = drive / "image_2"
    (images / "000004.png").unlink()
    if as_bag:
        path = tmp_path / "bag"
        assert main(["kitti-to-bag", str(drive), str(path)]) == 0
    else:
        path = tmp_path / "camera"
        path.mkdir()
        for image in sorted(images.iterdir()):
            image.rename(path / f"{1_700_000_000_000_000_000 + int(image.stem) * 100_000_000}.png")
        (path / "camera.yaml").write_text(yaml.safe_dump(CALIBRATION))
    caplog.set_level("INFO")
    recording = cached(path, tmp_path / "cache")
    assert recording.frame_ids.tolist() == list(range(7))
    assert centres_of(recording, strides=(1, 2)) == [(1, (1,)), (2, (1,)), (5, (1,))]
    assert "2 triplets are left out: by their stamps" in caplog.text


def test_a_cache_that_cannot_be_finished_leaves_nothing(drive: Path, tmp_path: Path, monkeypatch) -> None:
    def full(file: int, offset: int, length: int) -> None:
        assert length > 8 * HEIGHT * WIDTH * 3
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(DataError, match="No space left on device"):
        cached(drive, tmp_path / "cache")
    assert list((tmp_path / "cache").iterdir()) == []


def test_only_wanted_frames_are_in_the_middle(drive: Path, tmp_path: Path) -> None:
    found = find_centres([cached(drive, tmp_path)], [np.array([0, 2, 7])], (1,), 0.0)
    assert [centre.row for centre in found] == [2]


def test_standing_still_is_left_out_on_request(drive: Path, tmp_path: Path) -> None:
    images = drive / "image_2"
    for index in (4, 5):
        (images / f"{index:06d}.png").write_bytes((images / "000003.png").read_bytes())
    recording = cached(drive, tmp_path)
    assert [row for row, _ in centres_of(recording)] == [1, 2, 3, 4, 5, 6]
    assert [row for row, _ in centres_of(recording, min_change=1.0)] == [1, 2, 6]


def test_a_triplet_is_previous_current_next(drive: Path, tmp_path: Path) -> None:
    recording = cached(drive, tmp_path)
    triplets = Triplets([recording], find_centres([recording], [None], (2,), 0.0), PLAIN, seed=0)
    sample = triplets[(0, 1)]
    assert [number_of(image) for image in sample.images] == [1, 3, 5]
    assert torch.equal(sample.images, sample.augmented)
    assert sample.intrinsics.tolist() == pytest.approx(INTRINSICS)


def test_strides_are_drawn_anew_each_epoch(drive: Path, tmp_path: Path) -> None:
    recording = cached(drive, tmp_path)
    triplets = Triplets([recording], find_centres([recording], [None], (1, 2), 0.0), PLAIN, seed=0)
    strides = {number_of(triplets[(epoch, 2)].images[2]) - 3 for epoch in range(20)}
    assert strides == {1, 2}


def test_a_sample_depends_on_nothing_but_its_key(drive: Path, tmp_path: Path) -> None:
    recording = cached(drive, tmp_path)
    triplets = Triplets(
        [recording], find_centres([recording], [None], (1, 2), 0.0), AugmentationConfig(), seed=5
    )
    first = triplets[(3, 2)]
    torch.manual_seed(99)
    triplets[(0, 0)]
    assert all(torch.equal(a, b) for a, b in zip(first, triplets[(3, 2)], strict=True))
    assert not all(
        torch.equal(a, b) for e in range(4, 8) for a, b in zip(first, triplets[(e, 2)], strict=True)
    )


def test_every_epoch_deals_every_triplet_once() -> None:
    orders = [EpochOrder(22, 3, seed=1, rank=rank, world=2) for rank in range(2)]
    for order in orders:
        order.epoch = 4
    dealt = [key for order in orders for batch in order for key in batch]
    assert len(orders[0]) == 3
    assert len(dealt) == len(set(dealt)) == 18
    assert {epoch for epoch, _ in dealt} == {4}


def test_a_resumed_epoch_is_the_rest_of_the_same_epoch() -> None:
    order = EpochOrder(20, 3, seed=1)
    whole = list(order)
    order.start = 2
    assert list(order) == whole[2:]
    assert len(order) == len(whole)


def test_epochs_are_in_different_order() -> None:
    first, second = EpochOrder(20, 3, seed=1), EpochOrder(20, 3, seed=1)
    second.epoch = 1
    assert [[i for _, i in batch] for batch in first] != [[i for _, i in batch] for batch in second]


def test_too_few_triplets_are_refused() -> None:
    with pytest.raises(DataError, match="too few for one batch of 12"):
        EpochOrder(11, 6, seed=0, world=2)


def test_a_bag_trains_like_the_sequence_it_was_made_from(drive: Path, tmp_path: Path) -> None:
    assert main(["kitti-to-bag", str(drive), str(tmp_path / "bag")]) == 0
    from_bag = cached(tmp_path / "bag", tmp_path / "cache")
    from_images = cached(drive, tmp_path / "cache")
    assert np.array_equal(from_bag.pixels.get(), from_images.pixels.get())
    assert from_bag.intrinsics == pytest.approx(from_images.intrinsics)
    assert centres_of(from_bag) == centres_of(from_images)


def test_a_cache_without_a_home_folder_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_home(path: Path) -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "expanduser", no_home)
    with pytest.raises(ConfigError, match=r"no home folder for ~/.*: set data\.cache"):
        TripletData()
