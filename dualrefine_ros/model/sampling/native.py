"""The sampler in C++, for the CPU."""

from __future__ import annotations

import ctypes
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from dualrefine_ros.geometry.camera import MAX_INVERSE_DEPTH
from dualrefine_ros.model.epipolar import CANDIDATES, LEVELS
from dualrefine_ros.model.native import library, pointer
from dualrefine_ros.model.precision import full_precision
from dualrefine_ros.model.sampling import plain


def _channels_last(features: Tensor) -> Tensor:
    """(B, C, h, w) with the channels of a pixel side by side in memory; no copy where they are already."""
    return features.contiguous(memory_format=torch.channels_last)


def _size(cur: Tensor, prev: Tensor, candidates: int) -> Any:
    (B, C, h, w), (ph, pw) = cur.shape, prev.shape[-2:]
    return (ctypes.c_int * 7)(B, candidates, h, w, C, ph, pw)


class _LevelCost(torch.autograd.Function):
    """:func:`plain.matching_cost` of one level."""

    @staticmethod
    def forward(ctx: Any, cur: Tensor, prev: Tensor, pixels: Tensor) -> Tensor:
        cur, prev, pixels = _channels_last(cur), _channels_last(prev), pixels.contiguous()
        B, _, N, h, w = pixels.shape
        cost = cur.new_empty(B, N, h, w)
        library().epipolar_cost_forward(
            _size(cur, prev, N), pointer(cur), pointer(prev), pointer(pixels), pointer(cost),
            ctypes.c_int64(N * h * w), torch.get_num_threads(),
        )  # fmt: skip
        ctx.save_for_backward(cur, prev, pixels)
        return cost

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        cur, prev, pixels = ctx.saved_tensors
        N, h, w = pixels.shape[2:]
        grad = grad.contiguous()
        grad_cur, grad_prev, grad_pixels = (torch.zeros_like(t) for t in (cur, prev, pixels))
        library().epipolar_cost_backward(
            _size(cur, prev, N), pointer(cur), pointer(prev), pointer(pixels), pointer(grad),
            ctypes.c_int64(N * h * w), pointer(grad_cur), pointer(grad_prev), pointer(grad_pixels),
            torch.get_num_threads(),
        )  # fmt: skip
        return grad_cur, grad_prev, grad_pixels


@full_precision
def epipolar_cost(match_cur: Tensor, match_prev_levels: list[Tensor], pixels: Tensor) -> Tensor:
    """See :func:`plain.epipolar_cost`, which also serves double precision."""
    if match_cur.dtype != torch.float32:
        return plain.epipolar_cost(match_cur, match_prev_levels, pixels)
    per_level = pixels.chunk(len(match_prev_levels), 2)
    costs: list[Tensor] = [
        _LevelCost.apply(match_cur, features, at)
        for features, at in zip(match_prev_levels, per_level, strict=True)
    ]
    return torch.cat(costs, 1)


@full_precision
def epipolar_search(
    match_cur: Tensor,
    match_prev_levels: list[Tensor],
    depth: Tensor,
    max_update: Tensor,
    T_prev_cur: Tensor,
    intrinsics: Tensor,
) -> Tensor:
    """See :meth:`~dualrefine_ros.model.sampling.choice.Sampler.epipolar_search`; float32, no gradients."""
    cur, maps = _channels_last(match_cur), [_channels_last(level) for level in match_prev_levels]
    numbers = [t.contiguous() for t in (depth, max_update, T_prev_cur, intrinsics)]
    B, _, h, w = cur.shape
    cost = torch.empty(B, LEVELS * CANDIDATES, h, w, memory_format=torch.channels_last)
    sizes = [side for level in maps for side in level.shape[-2:]]
    library().epipolar_search(
        _size(cur, cur, CANDIDATES),
        len(maps),
        (ctypes.c_int * len(sizes))(*sizes),
        pointer(cur),
        (ctypes.c_void_p * len(maps))(*(level.data_ptr() for level in maps)),
        *map(pointer, numbers),
        ctypes.c_float(MAX_INVERSE_DEPTH),
        pointer(cost),
        torch.get_num_threads(),
    )
    return cost


@full_precision
def alignment_moments(match_cur: Tensor, match_prev: Tensor, pixels: Tensor) -> Tensor:
    """See :func:`plain.alignment_moments`, which also serves gradients and double precision."""
    if torch.is_grad_enabled() and any(t.requires_grad for t in (match_cur, match_prev, pixels)):
        return plain.alignment_moments(match_cur, match_prev, pixels)
    if match_cur.dtype != torch.float32:
        return plain.alignment_moments(match_cur, match_prev, pixels)
    cur, prev, pixels = _channels_last(match_cur), _channels_last(match_prev), pixels.contiguous()
    B, _, h, w = pixels.shape
    out = cur.new_empty(B, 6, h, w)
    library().alignment_moments(
        _size(cur, prev, 1), pointer(cur), pointer(prev), pointer(pixels), pointer(out),
        torch.get_num_threads(),
    )  # fmt: skip
    return out
