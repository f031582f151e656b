"""Anderson acceleration of a fixed-point iteration (Anderson, 1965; Walker and Ni, 2011).

The form deep equilibrium models use (Bai et al., 2019): two plain evaluations, then mixtures of the
last iterates whose weights minimise the mixed residual.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from dualrefine_ros.model.precision import full_precision

MEMORY = 6
REGULARISATION = 1e-4
PLAIN_EVALUATIONS = 2


@dataclass(frozen=True)
class FixedPoint:
    """What :func:`anderson` found.

    Args:
        x: (B, n), the accepted iterate; the last output where there were no accelerated evaluations.
        residuals: mean absolute difference between output and input, relative to the output, of each
            evaluation made.
        stopped_early: whether the tolerance ended it.
    """

    x: Tensor
    residuals: list[Tensor]
    stopped_early: bool


@full_precision
def mixing_weights(inputs: Tensor, outputs: Tensor) -> Tensor:
    """Weights (B, k), summing to 1, that minimise the mixed residual; all on the last where unsolvable.

    Args:
        inputs, outputs: (B, k, n), stored iterates and their images.
    """
    B, k, _ = inputs.shape
    residuals = outputs - inputs
    system = inputs.new_zeros(B, k + 1, k + 1)
    system[:, 0, 1:] = system[:, 1:, 0] = 1
    ridge = REGULARISATION * torch.eye(k, device=inputs.device, dtype=inputs.dtype)
    system[:, 1:, 1:] = residuals @ residuals.transpose(1, 2) + ridge
    right = inputs.new_zeros(B, k + 1, 1)
    right[:, 0] = 1
    solution, info = torch.linalg.solve_ex(system, right)
    weights = solution[:, 1:, 0]
    usable = (info == 0) & torch.isfinite(weights).all(1)
    newest = torch.zeros_like(weights)
    newest[:, -1] = 1
    return torch.where(usable[:, None], weights, newest)


def anderson(
    f: Callable[[Tensor], Tensor], x0: Tensor, evaluations: int, tolerance: float = 0.0
) -> FixedPoint:
    """Seek x with f(x) = x.

    Args:
        f: (B, n) to (B, n), finite for finite input.
        x0: (B, n), the start.
        evaluations: how many times f may be called, at least 1.
        tolerance: stop when the relative residual falls below it; 0 never does.

    Returns:
        The iterate, from the third on, with the smallest residual over the whole batch; with one or two
        evaluations their last output.
    """
    inputs, outputs, residuals = [x0], [f(x0)], []
    best_x, best_difference = outputs[0], x0.new_full((), torch.inf)
    stopped_early = False
    while True:
        difference = (outputs[-1] - inputs[-1]).abs().mean()
        residuals.append(difference / outputs[-1].abs().mean().clamp(min=1e-12))
        if len(residuals) > PLAIN_EVALUATIONS:
            better = difference < best_difference
            best_x = torch.where(better, inputs[-1], best_x)
            best_difference = torch.where(better, difference, best_difference)
        else:
            best_x = outputs[-1]
        if len(residuals) == evaluations:
            break
        if tolerance > 0 and float(residuals[-1]) < tolerance:
            stopped_early = True
            break
        if len(residuals) < PLAIN_EVALUATIONS:
            x = outputs[-1]
        else:
            stored = torch.stack(outputs[-MEMORY:], 1)
            weights = mixing_weights(torch.stack(inputs[-MEMORY:], 1), stored)
            x = (weights[:, :, None] * stored).sum(1)
        inputs.append(x)
        outputs.append(f(x))
    return FixedPoint(best_x, residuals, stopped_early)
