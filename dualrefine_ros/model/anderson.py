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
def mixing_weights(gram: Tensor) -> Tensor:
    """Weights (B, k), summing to 1, that minimise the mixed residual; all on the last where unsolvable.

    Args:
        gram: (B, k, k), scalar products of the stored residuals.
    """
    B, k, _ = gram.shape
    system = gram.new_zeros(B, k + 1, k + 1)
    system[:, 0, 1:] = system[:, 1:, 0] = 1
    system[:, 1:, 1:] = gram + REGULARISATION * torch.eye(k, device=gram.device, dtype=gram.dtype)
    right = gram.new_zeros(B, k + 1, 1)
    right[:, 0] = 1
    solution, info = torch.linalg.solve_ex(system, right)
    weights = solution[:, 1:, 0]
    usable = (info == 0) & torch.isfinite(weights).all(1)
    newest = torch.zeros_like(weights)
    newest[:, -1] = 1
    return torch.where(usable[:, None], weights, newest)


@full_precision
def extended_gram(gram: Tensor, residuals: list[Tensor]) -> Tensor:
    """The Gram matrix (B, k - 1, k - 1) of all residuals but the newest, extended by it to (B, k, k)."""
    row = torch.stack([torch.linalg.vecdot(stored, residuals[-1]) for stored in residuals], 1)
    return torch.cat((torch.cat((gram, row[:, :-1, None]), 2), row[:, None]), 1)


def mixed(weights: Tensor, vectors: list[Tensor]) -> Tensor:
    """The sum (B, n) of vectors (B, n), each times its column of weights (B, k)."""
    total = weights[:, :1] * vectors[0]
    for i in range(1, len(vectors)):
        total = torch.addcmul(total, weights[:, i : i + 1], vectors[i])
    return total


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
    outputs: list[Tensor] = []
    residuals: list[Tensor] = []
    gram = x0.new_zeros(len(x0), 0, 0)
    changes: list[Tensor] = []
    x, best_x, smallest = x0, x0, x0.new_full((), torch.inf)
    while True:
        output = f(x)
        outputs, residuals = [*outputs, output][-MEMORY:], [*residuals, output - x][-MEMORY:]
        gram = extended_gram(gram[:, -MEMORY + 1 :, -MEMORY + 1 :], residuals)
        difference = residuals[-1].abs().mean()
        changes.append(difference / output.abs().mean().clamp(min=1e-12))
        if len(changes) > PLAIN_EVALUATIONS:
            better = difference < smallest
            best_x = torch.where(better, x, best_x)
            smallest = torch.where(better, difference, smallest)
        else:
            best_x = output
        if len(changes) == evaluations:
            return FixedPoint(best_x, changes, stopped_early=False)
        if tolerance > 0 and float(changes[-1].detach()) < tolerance:
            return FixedPoint(best_x, changes, stopped_early=True)
        x = output if len(changes) < PLAIN_EVALUATIONS else mixed(mixing_weights(gram), outputs)
