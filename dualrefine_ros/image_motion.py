"""What two images say about a motion, without the network: how far they moved, and whether a motion fits.

All are functions of gray images (B, 1, h, w) in [0, 1] of one size, and give one number (B,) an image.
Pixels are those of the images given.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d, grid_sample

from dualrefine_ros.geometry.camera import back_project, pixel_grid, project, sampling_grid, transform

_STRONG = 0.8  # quantile of the gradient above which a pixel has an edge to be followed
_LEAST_EDGE = 0.01  # gray levels (of 1) a pixel; less is noise
_SMOOTHING = 9  # pixels; structure wider than this is brightness, and fits everywhere


def gray(image: Tensor) -> Tensor:
    """(B, 3, h, w) RGB to (B, 1, h, w), ITU-R BT.601."""
    return (image * image.new_tensor((0.299, 0.587, 0.114)).view(1, 3, 1, 1)).sum(1, keepdim=True)


def normal_flow(cur: Tensor, prev: Tensor) -> Tensor:
    """Median motion in pixels across the strongest edges, |dI| / |grad I|; exact for small motions only.

    What most edges do counts, so a car that passes in front of a standing camera does not. Exposure
    may change between the images: mean and contrast are matched first.
    """
    matched = (cur - cur.mean((2, 3), True)) / _contrast(cur) * _contrast(prev) + prev.mean((2, 3), True)
    both = (matched + prev) / 2
    along_u = (both[..., 1:-1, 2:] - both[..., 1:-1, :-2]) / 2
    along_v = (both[..., 2:, 1:-1] - both[..., :-2, 1:-1]) / 2
    edge = (along_u**2 + along_v**2).sqrt().flatten(1)
    change = (matched - prev)[..., 1:-1, 1:-1].abs().flatten(1)
    strong = edge.quantile(_STRONG, 1, keepdim=True).clamp(min=_LEAST_EDGE)
    motion = torch.where(edge >= strong, change / edge.clamp(min=_LEAST_EDGE), torch.nan)
    return motion.nanmedian(1).values


def _contrast(image: Tensor) -> Tensor:
    return image.std((2, 3), keepdim=True).clamp(min=1e-3)


def implied_flow(depth: Tensor, T_prev_cur: Tensor, intrinsics: Tensor) -> Tensor:
    """Median motion in pixels that depth (B, 1, h, w) and pose (B, 4, 4) imply; the scale cancels out."""
    h, w = depth.shape[-2:]
    pixels = project(transform(T_prev_cur, back_project(depth, intrinsics)), intrinsics)
    flow = pixels - pixel_grid(h, w, depth.device, depth.dtype)
    return flow.norm(dim=1).flatten(1).median(1).values


def agreement(cur: Tensor, prev: Tensor, depth: Tensor, T_prev_cur: Tensor, intrinsics: Tensor) -> Tensor:
    """Correlation in [-1, 1] of the current image with the previous one seen through depth and pose.

    Of fine structure only, where the previous image shows it; 0 where it shows nothing. Unrelated images
    have none, whatever they look like.
    """
    h, w = depth.shape[-2:]
    pixels = project(transform(T_prev_cur, back_project(depth, intrinsics)), intrinsics)
    grid = sampling_grid(pixels, h, w)
    seen = (grid.abs() < 1).all(-1)[:, None].float()
    a, b = _fine(cur) * seen, grid_sample(_fine(prev), grid, align_corners=False) * seen
    energy = (a * a).sum((1, 2, 3)) * (b * b).sum((1, 2, 3))
    correlation = (a * b).sum((1, 2, 3)) / energy.clamp(min=1e-12).sqrt()
    return torch.nan_to_num(correlation)


def _fine(image: Tensor) -> Tensor:
    """The image without what is wider than a few pixels, and its contrast evened out."""
    mean = avg_pool2d(image, _SMOOTHING, 1, _SMOOTHING // 2, count_include_pad=False)
    detail = image - mean
    spread = avg_pool2d(detail**2, _SMOOTHING, 1, _SMOOTHING // 2, count_include_pad=False)
    return detail / (spread + 1e-4).sqrt()
