"""How well one image explains another: photometric error and smoothness (paper, Sec. 3.1.1).

Godard et al., "Digging Into Self-Supervised Monocular Depth Estimation", ICCV 2019.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import grid_sample, pad

from dualrefine_ros.geometry.camera import back_project, project, sampling_grid, transform

SSIM_WEIGHT = 0.85  # against 0.15 of L1
_C1, _C2 = 0.01**2, 0.03**2  # of SSIM, for images in [0, 1]


def warp(image_source: Tensor, depth: Tensor, T_source_cur: Tensor, intrinsics: Tensor) -> Tensor:
    """The source image as the current camera would see it, its border continued outwards.

    Where depth or pose is not a number, some place of the image: whoever made them has to look.

    Args:
        image_source: (B, 3, H, W).
        depth: (B, 1, H, W) metres, of the current frame.
        T_source_cur: (B, 4, 4).
        intrinsics: (B, 4) at this size.

    Returns:
        (B, 3, H, W).
    """
    pixels = project(transform(T_source_cur, back_project(depth, intrinsics)), intrinsics)
    # a NaN would read outside of the image: on the CPU the backward pass of torch 2.14 crashes
    grid = sampling_grid(pixels, *depth.shape[-2:]).nan_to_num()
    return grid_sample(image_source, grid, padding_mode="border", align_corners=False)


def local_mean(x: Tensor) -> Tensor:
    """3x3 mean of (B, C, H, W), borders reflected; rows, then columns, which is far faster than pooling."""
    x = pad(x, (1, 1, 1, 1), mode="reflect")
    rows = x[..., :-2, :] + x[..., 1:-1, :] + x[..., 2:, :]
    return (rows[..., :-2] + rows[..., 1:-1] + rows[..., 2:]) / 9


class Target:
    """An image to be explained by others; what its comparisons share is computed once.

    Args:
        image: (B, C, H, W) in [0, 1].
    """

    def __init__(self, image: Tensor) -> None:
        self.image = image
        self._mean = local_mean(image)
        self._variance = local_mean(image * image) - self._mean * self._mean

    def dissimilarity(self, other: Tensor) -> Tensor:
        """(1 - SSIM) / 2 of another image (B, C, H, W), in [0, 1] (Wang et al., 2004)."""
        mean = local_mean(other)
        variance = local_mean(other * other) - mean * mean
        covariance = local_mean(other * self.image) - mean * self._mean
        numerator = (2 * mean * self._mean + _C1) * (2 * covariance + _C2)
        denominator = (mean * mean + self._mean * self._mean + _C1) * (variance + self._variance + _C2)
        return ((1 - numerator / denominator) / 2).clamp(0, 1)

    def photometric_error(self, other: Tensor) -> Tensor:
        """pe (B, 1, H, W): 0.85 (1 - SSIM) / 2 + 0.15 L1 to (B, C, H, W), mean over colours."""
        l1 = (self.image - other).abs()
        return (SSIM_WEIGHT * self.dissimilarity(other) + (1 - SSIM_WEIGHT) * l1).mean(1, keepdim=True)


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
