"""What a training step is given."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor


class TripletBatch(NamedTuple):
    """Three frames in a row of B cameras: previous, current, next.

    Args:
        images: (B, 3, 3, H, W) uint8, the frames as they are: what the losses compare.
        augmented: (B, 3, 3, H, W) uint8, the same with changed colours: what the network sees.
        intrinsics: (B, 4) float, at this size.
    """

    images: Tensor
    augmented: Tensor
    intrinsics: Tensor


def as_float(images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """(B, 3, 3, H, W) uint8 to three (B, 3, H, W) in [0, 1]: previous, current, next."""
    prev, cur, following = (images.float() / 255).unbind(1)
    return prev, cur, following
