"""The sampler in Triton, for CUDA; also run by Triton's interpreter on a CPU, where it is tested."""

from __future__ import annotations

import os
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from dualrefine_ros.model.precision import full_precision
from dualrefine_ros.model.sampling import plain

BLOCK = 32  # pixels of a program
INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"


def available(device: torch.device) -> bool:
    """Whether Triton is installed and runs on this device."""
    return find_spec("triton") is not None and (device.type == "cuda" or INTERPRETED)


def _launch(
    cur: Tensor, prev: Tensor, pixels: Tensor
) -> tuple[tuple[int, int], tuple[Any, ...], dict[str, int]]:
    """Grid of programs, the kernels' size arguments, and their block sizes."""
    import triton

    (B, C, h, w), (ph, pw) = cur.shape, prev.shape[-2:]
    sizes = (h * w, pixels.shape[2], C, ph, pw, pw / w, ph / h)
    blocks = {"BLOCK_P": BLOCK, "BLOCK_C": triton.next_power_of_2(C)}
    return (triton.cdiv(h * w, BLOCK), B), sizes, blocks


class _LevelCost(torch.autograd.Function):
    """:func:`plain.matching_cost` of one level."""

    @staticmethod
    def forward(ctx: Any, cur: Tensor, prev: Tensor, pixels: Tensor) -> Tensor:
        cur, prev = (t.contiguous(memory_format=torch.channels_last) for t in (cur, prev))
        pixels = pixels.contiguous()
        cost = pixels.new_empty(pixels.shape[0], *pixels.shape[2:])
        grid, sizes, blocks = _launch(cur, prev, pixels)
        from dualrefine_ros.model.sampling import triton_kernels

        with torch.cuda.device_of(cur):  # Triton launches on the current GPU, wherever the tensors are
            triton_kernels.forward[grid](cur, prev, pixels, cost, *sizes, **blocks)
        ctx.save_for_backward(cur, prev, pixels)
        return cost

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        cur, prev, pixels = ctx.saved_tensors
        grad_cur, grad_prev, grad_pixels = (torch.zeros_like(t) for t in (cur, prev, pixels))
        grid, sizes, blocks = _launch(cur, prev, pixels)
        from dualrefine_ros.model.sampling import triton_kernels

        with torch.cuda.device_of(cur):
            triton_kernels.backward[grid](
                cur, prev, pixels, grad.contiguous(), grad_cur, grad_prev, grad_pixels, *sizes, **blocks
            )
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
