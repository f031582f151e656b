"""What training looks like: images, warped images, depth, masks and confidence, every so many steps."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import numpy as np
import numpy.typing as npt
import torch
from lightning.pytorch.loggers import TensorBoardLogger
from matplotlib import colormaps
from PIL import Image
from torch import Tensor
from torch.nn.functional import interpolate

from dualrefine_ros.training.batch import TripletBatch, as_float
from dualrefine_ros.training.step import StepResult

Panel = npt.NDArray[np.uint8]


class TrainingPictures(pl.Callback):
    """Pictures of the first triplet of a batch, to TensorBoard and to PNG files.

    Args:
        every: steps between pictures; 0 makes none.
    """

    def __init__(self, every: int = 500) -> None:
        self._every = every

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: Any, outputs: Any, batch: TripletBatch, batch_idx: int
    ) -> None:
        """A picture, if it is time."""
        step = trainer.global_step
        if not self._every or step % self._every or not trainer.is_global_zero or pl_module.latest is None:
            return
        picture = panel(*pl_module.latest)
        for logger in trainer.loggers:
            if isinstance(logger, TensorBoardLogger):
                logger.experiment.add_image("triplet", picture, step, dataformats="HWC")
        folder = Path(trainer.default_root_dir) / "pictures"
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture).save(folder / f"step_{step:07d}.png")


def panel(batch: TripletBatch, result: StepResult) -> Panel:
    """The first triplet from above: current image, previous image warped, disparities, masks, confidence.

    Left the teacher's, right the refiner's; black where there is no refiner.
    """
    size = batch.images.shape[-2:]
    cur = as_float(batch.images[:1])[1]
    blank = np.zeros((*size, 3), np.uint8)
    left = [
        _colours(cur),
        _map(result.teacher.disparities[0], size, "magma"),
        _map(result.losses.auto_mask.float(), size, "gray"),
    ]
    right = [_colours(result.losses.warped), blank, blank]
    if result.refined is not None:
        right[1] = _map(result.refined.disparities[0], size, "magma")
        right[2] = _map(result.refined.consistency_mask.float(), size, "gray")
        left.append(blank)
        right.append(_map(result.refined.weight, size, "viridis"))
    return np.concatenate([np.concatenate(row, 1) for row in zip(left, right, strict=True)])


def _colours(images: Tensor) -> Panel:
    return (images[0].detach().permute(1, 2, 0).clamp(0, 1) * 255).byte().cpu().numpy()


def _map(values: Tensor, size: torch.Size, colours: str) -> Panel:
    """(B, 1, h, w) to colours, its 99th percentile being the brightest."""
    full = interpolate(values[:1].detach().float(), size=size)[0, 0].cpu().numpy()
    brightest = max(float(np.nanpercentile(full, 99)), 1e-6)
    return (colormaps[colours](np.clip(full / brightest, 0, 1))[..., :3] * 255).astype(np.uint8)
