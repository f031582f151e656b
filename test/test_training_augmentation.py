"""How triplets are mirrored, turned and coloured."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from scipy.spatial.transform import Rotation

sys.path.insert(0, str(Path(__file__).parent))
from training_helpers import INTRINSICS, texture

from dualrefine_ros.errors import ConfigError
from dualrefine_ros.geometry.camera import rays
from dualrefine_ros.training.augmentation import AugmentationConfig, augment, jittered, mirror, turned

HEIGHT, WIDTH = 64, 96


def test_a_mirrored_camera_sees_mirrored_rays() -> None:
    """The ray through a pixel, mirrored in space, goes through the mirrored pixel."""
    images = torch.arange(HEIGHT * WIDTH).view(1, 1, HEIGHT, WIDTH).expand(3, 3, -1, -1)
    intrinsics = torch.tensor((60.0, 61.0, 40.25, 31.5))
    mirrored, other = mirror(images, intrinsics)
    before, after = (rays(k[None], HEIGHT, WIDTH)[0] for k in (intrinsics, other))
    assert torch.equal(mirrored[..., 0], images[..., -1])
    torch.testing.assert_close(after.flip(-1) * torch.tensor((-1.0, 1.0, 1.0)).view(3, 1, 1), before)


def test_a_turned_camera_sees_the_same_points_elsewhere() -> None:
    """A plane far away with a spot on it: where the turned camera must see the spot, by hand."""
    fx, fy, cx, cy = 60.0, 70.0, 45.0, 30.0
    for axis, angle in enumerate((4.0, -5.0, 8.0)):
        u, v = 60.0, 24.0
        image = torch.zeros(3, 3, HEIGHT, WIDTH, dtype=torch.uint8)
        image[..., int(v) - 1 : int(v) + 2, int(u) - 1 : int(u) + 2] = 200
        angles = torch.zeros(1, 3)
        angles[0, axis] = angle
        seen = turned(image, torch.tensor((fx, fy, cx, cy)), angles)
        R_old_new = Rotation.from_euler("xyz"[axis], angle, degrees=True).as_matrix()
        x, y, z = R_old_new.T @ ((u - cx) / fx, (v - cy) / fy, 1.0)
        weights = seen[0, 0].double()
        rows, columns = torch.meshgrid(torch.arange(HEIGHT), torch.arange(WIDTH), indexing="ij")
        assert float((weights * columns).sum() / weights.sum()) == pytest.approx(fx * x / z + cx, abs=0.1)
        assert float((weights * rows).sum() / weights.sum()) == pytest.approx(fy * y / z + cy, abs=0.1)


def test_all_frames_turn_alike_and_not_too_far() -> None:
    image = torch.from_numpy(texture(HEIGHT, WIDTH)).permute(2, 0, 1).expand(3, -1, -1, -1)
    config = AugmentationConfig(flip=0, jitter=0, turn=(0.0, 0.0, 3.0))
    generator = torch.Generator().manual_seed(0)
    first, seen, intrinsics = augment(image, torch.tensor(INTRINSICS), config, generator)
    second, *_ = augment(image, torch.tensor(INTRINSICS), config, generator)
    assert torch.equal(first[0], first[2])
    assert torch.equal(first, seen)
    assert not torch.equal(first, second)
    assert torch.equal(intrinsics, torch.tensor(INTRINSICS))
    with pytest.raises(ConfigError, match="0 to 10 degrees"):
        AugmentationConfig(turn=(0.0, 0.0, 30.0))


def test_a_shaken_triplet_has_other_rotations_and_the_same_translations() -> None:
    """The middle frame stays; points seen in the outer two move as by a rotation alone: their rays tell."""
    image = torch.from_numpy(texture(HEIGHT, WIDTH)).permute(2, 0, 1).expand(3, -1, -1, -1)
    config = AugmentationConfig(flip=0, jitter=0, shake=1, shake_turn=(0.0, 3.0, 0.0))
    intrinsics, generator = torch.tensor(INTRINSICS), torch.Generator().manual_seed(0)
    moved = [augment(image, intrinsics, config, generator)[0] for _ in range(4)]
    for frames in moved:
        assert torch.equal(frames[1], image[1])
        assert not torch.equal(frames[0], image[0])
        assert not torch.equal(frames[0], frames[2])
    assert not torch.equal(moved[0][0], moved[1][0])
    alone = augment(image, intrinsics, AugmentationConfig(flip=0, jitter=0, shake=0), generator)[0]
    assert torch.equal(alone, image)
    with pytest.raises(ConfigError, match="shake must be between 0 and 1"):
        AugmentationConfig(shake=2)
    with pytest.raises(ConfigError, match="shake_turn must be 0 to 10 degrees"):
        AugmentationConfig(shake_turn=(0.0, 11.0, 0.0))


def test_each_frame_turns_by_its_own_angles() -> None:
    image = torch.from_numpy(texture(HEIGHT, WIDTH)).permute(2, 0, 1).expand(3, -1, -1, -1)
    intrinsics, angles = torch.tensor(INTRINSICS), torch.tensor([[0, 2, 0], [0, 0, 0], [1, 0, -3.0]])
    together = turned(image, intrinsics, angles)
    assert torch.equal(together[1], image[1])
    for frame in range(3):
        assert torch.equal(
            together[frame], turned(image[frame : frame + 1], intrinsics, angles[frame : frame + 1])[0]
        )


def test_jitter_changes_what_the_network_sees_alike_in_all_frames() -> None:
    image = torch.from_numpy(texture(HEIGHT, WIDTH)).permute(2, 0, 1)
    config = AugmentationConfig(flip=0, jitter=1)
    generator = torch.Generator().manual_seed(0)
    compared, seen, _ = augment(image.expand(3, -1, -1, -1), torch.tensor(INTRINSICS), config, generator)
    assert torch.equal(compared[0], image)
    assert not torch.equal(seen[0], image)
    assert torch.equal(seen[0], seen[1])
    assert torch.equal(seen[0], seen[2])


def test_jitter_stays_within_its_bounds() -> None:
    gray = torch.full((3, 3, 8, 8), 100, dtype=torch.uint8)  # contrast, saturation and hue leave it alone
    means = [
        jittered(gray, AugmentationConfig(), torch.Generator().manual_seed(seed)).float().mean().item()
        for seed in range(50)
    ]
    assert 77 <= min(means) < 90  # 80 and some rounding
    assert 110 < max(means) <= 123


def test_grayscale_drops_colours_of_all_images() -> None:
    image = torch.from_numpy(texture(HEIGHT, WIDTH)).permute(2, 0, 1).expand(3, -1, -1, -1)
    config = AugmentationConfig(flip=0, jitter=1, grayscale=1)
    compared, seen, _ = augment(image, torch.tensor(INTRINSICS), config, torch.Generator().manual_seed(0))
    assert torch.equal(compared[:, 0], compared[:, 2])
    assert (seen[:, 0].int() - seen[:, 2].int()).abs().max() <= 2  # the hue shift rounds
