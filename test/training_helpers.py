"""What several tests of training share: a network that trains in a moment, and a drive to train it on."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from PIL import Image

from dualrefine_ros.model import ModelConfig
from dualrefine_ros.training.batch import TripletBatch

TINY = ModelConfig(depth_backbone="lcnet_050", pose_backbone="lcnet_050", height=64, width=96)
INTRINSICS = (60.0, 60.0, 47.5, 31.5)  # of the drive below, at its size


def texture(height: int, width: int, seed: int = 0) -> np.ndarray:
    """(H, W, 3) uint8 with detail at several scales."""
    rng = np.random.default_rng(seed)
    sum_of_scales = np.zeros((height, width, 3))
    for cell in (4, 8, 16, 32):
        coarse = rng.uniform(0, 255, (height // cell + 2, width // cell + 2, 3)).astype(np.uint8)
        sum_of_scales += np.asarray(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC))
    return (sum_of_scales / 4).astype(np.uint8)


def write_drive(folder: Path, frames: int, height: int = 64, width: int = 96) -> Path:
    """A KITTI odometry sequence: a camera that moves sideways along a textured wall 5 m away."""
    images = folder / "image_2"
    images.mkdir(parents=True)
    wall = texture(height, width + 3 * frames)
    for index in range(frames):
        Image.fromarray(wall[:, 3 * index : 3 * index + width]).save(images / f"{index:06d}.png")
    fx, fy, cx, cy = INTRINSICS
    (folder / "calib.txt").write_text(f"P2: {fx} 0 {cx} 0 0 {fy} {cy} 0 0 0 1 0\n")
    (folder / "times.txt").write_text("".join(f"{index / 10:.6f}\n" for index in range(frames)))
    step = 3 * 5.0 / fx  # three pixels at 5 m
    poses = "".join(f"1 0 0 {step * i} 0 1 0 0 0 0 1 0\n" for i in range(frames))
    (folder / "poses.txt").write_text(poses)
    return folder


def batch_of(count: int, seed: int = 0) -> TripletBatch:
    """Triplets of the textured wall, each elsewhere on it."""
    wall = texture(TINY.height, TINY.width + 40 * count, seed)
    triplets = [
        [wall[:, 40 * i + shift : 40 * i + shift + TINY.width] for shift in (0, 2, 5)] for i in range(count)
    ]
    images = torch.from_numpy(np.array(triplets)).permute(0, 1, 4, 2, 3).contiguous()
    return TripletBatch(images, images, torch.tensor([INTRINSICS]).expand(count, 4))
