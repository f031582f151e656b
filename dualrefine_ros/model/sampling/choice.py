"""Which sampler serves on which device."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from dualrefine_ros.errors import ConfigError
from dualrefine_ros.model.epipolar import depth_candidates, epipolar_coordinates
from dualrefine_ros.model.sampling import plain


class Sampler(NamedTuple):
    """An implementation; the functions are those of :mod:`~dualrefine_ros.model.sampling.plain`.

    ``fused_search``, where there is one, computes coordinates and costs together, without gradients.
    """

    name: str
    epipolar_cost: Callable[[Tensor, list[Tensor], Tensor], Tensor]
    alignment_moments: Callable[[Tensor, Tensor, Tensor], Tensor]
    fused_search: Callable[[Tensor, list[Tensor], Tensor, Tensor, Tensor, Tensor], Tensor] | None = None

    def epipolar_search(
        self,
        match_cur: Tensor,
        match_prev_levels: list[Tensor],
        depth: Tensor,
        max_update: Tensor,
        T_prev_cur: Tensor,
        intrinsics: Tensor,
    ) -> Tensor:
        """The cost of every depth candidate of every pixel.

        Args:
            match_cur: (B, C, h, w).
            match_prev_levels: of the previous frame, see :mod:`~dualrefine_ros.model.epipolar`.
            depth, max_update: (B, 1, h, w) metres, see there.
            T_prev_cur: (B, 4, 4).
            intrinsics: (B, 4) at this size.

        Returns:
            (B, LEVELS * CANDIDATES, h, w).
        """
        if self.fused_search is None or torch.is_grad_enabled() or match_cur.dtype == torch.float64:
            pixels = epipolar_coordinates(depth_candidates(depth, max_update), T_prev_cur, intrinsics)
            return self.epipolar_cost(match_cur, match_prev_levels, pixels)
        return self.fused_search(match_cur, match_prev_levels, depth, max_update, T_prev_cur, intrinsics)


PLAIN = Sampler("plain", plain.epipolar_cost, plain.alignment_moments)
NAMES = ("auto", "plain", "native", "triton")


def choose(name: str, device: torch.device) -> Sampler:
    """The sampler of this name; ``auto`` takes the fastest that works on the device.

    Raises:
        ConfigError: there is no such sampler, or it does not work here.
    """
    if name not in NAMES:
        raise ConfigError(f"There is no sampler '{name}': choose one of {', '.join(NAMES)}.")
    if name == "plain":
        return PLAIN
    if name == "native" and device.type != "cpu":
        raise ConfigError(f"The native sampler runs on the CPU, not on {device}: choose auto.")
    if name == "native" or (name == "auto" and device.type == "cpu"):
        from dualrefine_ros.model import native
        from dualrefine_ros.model.sampling import native as sampler

        if native.available():
            return Sampler(
                "native", sampler.epipolar_cost, sampler.alignment_moments, sampler.epipolar_search
            )
        if name == "native":
            raise ConfigError(f"The native sampler is not to be had: {native.reason()}.")
    if name == "triton" or (name == "auto" and device.type == "cuda"):
        from dualrefine_ros.model.sampling import fused_triton

        if fused_triton.available(device):
            return Sampler("triton", fused_triton.epipolar_cost, plain.alignment_moments)
        if name == "triton":
            raise ConfigError("The triton sampler needs a CUDA device and the triton package.")
    return PLAIN
