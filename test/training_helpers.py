"""What several tests of training share: a network that trains in a moment, and a drive to train it on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import numpy as np
import torch
from PIL import Image

from dualrefine_ros.model import ModelConfig
from dualrefine_ros.training.batch import TripletBatch
from dualrefine_ros.training.datamodule import Recording, TripletData
from dualrefine_ros.training.initialisation import InitialWeights
from dualrefine_ros.training.module import DualRefineTraining, ScheduleConfig

TINY = ModelConfig(depth_backbone="lcnet_050", pose_backbone="lcnet_050", height=64, width=96)
SCHEDULE = ScheduleConfig(learning_rate=1e-3, teacher_until_epoch=1, frozen_from_epoch=2, warmup_steps=2)
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


def data(drive: Path, **options: Any) -> TripletData:
    """To train and validate on a drive."""
    return TripletData(
        train=[Recording(drive)],
        validate=[Recording(drive)],
        height=TINY.height,
        width=TINY.width,
        batch_size=2,
        cache=drive.parent / "cache",
        **{"workers": 0, **options},
    )


def module(**options: Any) -> DualRefineTraining:
    """A run of the tiny network from chance; an epoch of each phase unless told otherwise."""
    return DualRefineTraining(
        TINY, initial=InitialWeights(imagenet=False), **{"schedule": SCHEDULE, **options}
    )


def trainer(folder: Path, *callbacks: pl.Callback, epochs: int = 3, **options: Any) -> pl.Trainer:
    """A trainer that says nothing, logs nothing and does not validate."""
    return pl.Trainer(
        accelerator="cpu",
        max_epochs=epochs,
        default_root_dir=folder,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        gradient_clip_val=0.1,
        use_distributed_sampler=False,
        reload_dataloaders_every_n_epochs=1,
        callbacks=list(callbacks),
        **{"limit_val_batches": 0, **options},
    )
