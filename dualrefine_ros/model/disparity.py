"""Disparity, depth, and learned upsampling."""

from __future__ import annotations

from torch import Tensor
from torch.nn.functional import unfold

from dualrefine_ros.model.precision import full_precision

UPSAMPLING = 4  # from refinement to input size


def disparity_to_depth(disparity: Tensor, min_depth: float, max_depth: float) -> Tensor:
    """[0, 1] to metres, linear in inverse depth: 1 is ``min_depth``, 0 is ``max_depth``."""
    return 1.0 / (1.0 / max_depth + (1.0 / min_depth - 1.0 / max_depth) * disparity)


def depth_to_disparity(depth: Tensor, min_depth: float, max_depth: float) -> Tensor:
    """The inverse of :func:`disparity_to_depth`."""
    return (1.0 / depth - 1.0 / max_depth) / (1.0 / min_depth - 1.0 / max_depth)


@full_precision
def convex_upsample(coarse: Tensor, logits: Tensor) -> Tensor:
    """Each fine pixel is a weighted mean of 3x3 coarse ones (RAFT, Teed and Deng, 2020, Sec. 3.3).

    Args:
        coarse: (B, 1, h, w).
        logits: (B, 9 * 4 * 4, h, w), ordered neighbour (row-major), sub-row, sub-column.

    Returns:
        (B, 1, 4h, 4w).
    """
    B, _, h, w = coarse.shape
    weights = logits.view(B, 9, UPSAMPLING, UPSAMPLING, h, w).softmax(1)
    neighbours = unfold(coarse, 3, padding=1).view(B, 9, 1, 1, h, w)
    fine = (weights * neighbours).sum(1)  # (B, 4, 4, h, w)
    return fine.permute(0, 3, 1, 4, 2).reshape(B, 1, UPSAMPLING * h, UPSAMPLING * w)
