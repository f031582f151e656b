"""The sampler in plain PyTorch: the definition, for every device.

Where a coordinate is not finite, cost and moments are NaN; outside, features are zero. Features that are not
finite touch what is sampled beside them, and nothing else. Gradients of a NaN are 0 or NaN.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import grid_sample

from dualrefine_ros.geometry.camera import sampling_grid
from dualrefine_ros.model.precision import full_precision


@full_precision
def sample(features: Tensor, pixels: Tensor, height: int, width: int) -> Tensor:
    """Bilinear samples (B, C, m, n) at pixels (B, 2, m, n) of a ``height x width`` map; zero outside.

    The features (B, C, ., .) may have another resolution than the map whose pixels are counted.
    """
    return grid_sample(features, sampling_grid(pixels, height, width), align_corners=False)


@full_precision
def matching_cost(match_cur: Tensor, match_prev: Tensor, pixels: Tensor) -> Tensor:
    """Mean over channels of ``|m_cur - m_prev(pixels)|`` for N candidates of every pixel.

    Args:
        match_cur: (B, C, h, w).
        match_prev: (B, C, ., .), of any resolution of the same view.
        pixels: (B, 2, N, h, w), in pixels of the (h, w) map.

    Returns:
        (B, N, h, w).
    """
    B, _, N, h, w = pixels.shape
    samples = sample(match_prev, pixels.reshape(B, 2, N * h, w), h, w).view(B, -1, N, h, w)
    return (match_cur[:, :, None] - samples).abs().mean(1) + _doubt(pixels)


def epipolar_cost(match_cur: Tensor, match_prev_levels: list[Tensor], pixels: Tensor) -> Tensor:
    """:func:`matching_cost` at every level, (B, N, h, w); the pixels (B, 2, N, h, w) are level-major."""
    per_level = pixels.chunk(len(match_prev_levels), 2)
    costs = [
        matching_cost(match_cur, features, at)
        for features, at in zip(match_prev_levels, per_level, strict=True)
    ]
    return torch.cat(costs, 1)


def image_gradient(features: Tensor, pixels: Tensor) -> tuple[Tensor, Tensor]:
    """Central differences of samples at +-1 pixel: d/du and d/dv, each (B, C, h, w)."""
    h, w = pixels.shape[-2:]
    one_u = pixels.new_tensor((1.0, 0.0)).view(1, 2, 1, 1)
    one_v = pixels.new_tensor((0.0, 1.0)).view(1, 2, 1, 1)
    left, right, above, below = (
        sample(features, pixels + step, h, w) for step in (-one_u, one_u, -one_v, one_v)
    )
    return (right - left) / 2, (below - above) / 2


@full_precision
def alignment_moments(match_cur: Tensor, match_prev: Tensor, pixels: Tensor) -> Tensor:
    """What a Gauss-Newton step needs of the features: sums over channels, per pixel.

    Args:
        match_cur, match_prev: (B, C, h, w).
        pixels: (B, 2, h, w), where each current pixel lies in the previous frame.

    Returns:
        (B, 6, h, w): gu gu, gu gv, gv gv, gu e, gv e, e e with ``e = m_cur - m_prev(pixels)`` and the
        image gradient (gu, gv) of ``m_prev`` there.
    """
    h, w = pixels.shape[-2:]
    e = match_cur - sample(match_prev, pixels, h, w)
    gu, gv = image_gradient(match_prev, pixels)
    products = (gu * gu, gu * gv, gv * gv, gu * e, gv * e, e * e)
    return torch.stack([product.sum(1) for product in products], 1) + _doubt(pixels)[:, None]


def _doubt(pixels: Tensor) -> Tensor:
    """0, or NaN where pixels (B, 2, ...) are not finite, which ``grid_sample`` on CUDA takes for outside."""
    return (0 * pixels).sum(1)
