"""How well one image explains another: photometric error, auto-mask, smoothness (paper, Sec. 3.1.1).

Godard et al., "Digging Into Self-Supervised Monocular Depth Estimation", ICCV 2019, Sec. 3.2 and 3.3.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d, grid_sample, pad

from dualrefine_ros.geometry.camera import back_project, project, sampling_grid, transform
from dualrefine_ros.model.precision import full_precision

SSIM_WEIGHT = 0.85  # against 0.15 of L1
_C1, _C2 = 0.01**2, 0.03**2  # of SSIM, for images in [0, 1]


@full_precision
def warp(image_source: Tensor, depth: Tensor, T_source_cur: Tensor, intrinsics: Tensor) -> Tensor:
    """The source image as the current camera would see it, its border continued outwards.

    Args:
        image_source: (B, 3, H, W).
        depth: (B, 1, H, W) metres, of the current frame.
        T_source_cur: (B, 4, 4).
        intrinsics: (B, 4) at this size.

    Returns:
        (B, 3, H, W).
    """
    pixels = project(transform(T_source_cur, back_project(depth, intrinsics)), intrinsics)
    grid = sampling_grid(pixels, *depth.shape[-2:])
    return grid_sample(image_source, grid, padding_mode="border", align_corners=False)


def _local_mean(x: Tensor) -> Tensor:
    """3x3 mean, borders reflected."""
    return avg_pool2d(pad(x, (1, 1, 1, 1), mode="reflect"), 3, 1)


def dissimilarity(x: Tensor, y: Tensor) -> Tensor:
    """(1 - SSIM) / 2, in [0, 1], of images (B, C, H, W) (Wang et al., 2004)."""
    mean_x, mean_y = _local_mean(x), _local_mean(y)
    variance_x = _local_mean(x * x) - mean_x * mean_x
    variance_y = _local_mean(y * y) - mean_y * mean_y
    covariance = _local_mean(x * y) - mean_x * mean_y
    numerator = (2 * mean_x * mean_y + _C1) * (2 * covariance + _C2)
    denominator = (mean_x * mean_x + mean_y * mean_y + _C1) * (variance_x + variance_y + _C2)
    return ((1 - numerator / denominator) / 2).clamp(0, 1)


def photometric_error(image: Tensor, other: Tensor) -> Tensor:
    """pe (B, 1, H, W): 0.85 (1 - SSIM) / 2 + 0.15 L1, mean over colours."""
    l1 = (image - other).abs().mean(1, keepdim=True)
    return SSIM_WEIGHT * dissimilarity(other, image).mean(1, keepdim=True) + (1 - SSIM_WEIGHT) * l1


def smoothness(disparity: Tensor, image: Tensor) -> Tensor:
    """Edge-aware first differences of the mean-normalised disparity; a scalar.

    Args:
        disparity: (B, 1, h, w).
        image: (B, 3, h, w).
    """
    normalised = disparity / (disparity.mean((2, 3), keepdim=True) + 1e-7)
    across = (normalised[..., :, 1:] - normalised[..., :, :-1]).abs()
    down = (normalised[..., 1:, :] - normalised[..., :-1, :]).abs()
    edges_across = (image[..., :, 1:] - image[..., :, :-1]).abs().mean(1, keepdim=True)
    edges_down = (image[..., 1:, :] - image[..., :-1, :]).abs().mean(1, keepdim=True)
    return (across * torch.exp(-edges_across)).mean() + (down * torch.exp(-edges_down)).mean()
