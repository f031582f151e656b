"""The fixed point that depth and pose are refined towards (paper, Sec. 3.2.3)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import IntFlag

import torch
from torch import Tensor

from dualrefine_ros.model.anderson import anderson
from dualrefine_ros.model.pose_alignment import AlignmentSystem, solve_alignment


class SolverStatus(IntFlag):
    """What happened to a batch element; 0 is all well."""

    OK = 0
    POSE_UNSOLVED = 1  # a pose system could not be solved; that iteration left the pose as it was
    NON_FINITE = 2  # an iteration gave NaN or Inf; the last finite depth and state stand


@dataclass(frozen=True)
class Proposal:
    """What the network says in one update, before anybody asks whether it makes sense.

    Args:
        hidden: (B, 64, h, w).
        depth: (B, 1, h, w) metres.
        system: the pose's normal equations; None where the pose is not to be refined.
    """

    hidden: Tensor
    depth: Tensor
    system: AlignmentSystem | None


@dataclass(frozen=True)
class Update:
    """Result of one update: state, pose and what is known about them.

    Args:
        hidden: (B, 64, h, w).
        depth: (B, 1, h, w) metres.
        T_prev_cur: (B, 4, 4).
        xi_norm: (B,), length of the pose step; infinite where there was none.
        weight: (B, 1, h, w), what each pixel counted in the pose.
        H: (B, 6, 6), the pose step's normal matrix; zero where there was none.
        residual_variance: (B,), of a residual of weight 1.
        status: (B,) int64, :class:`SolverStatus`.
    """

    hidden: Tensor
    depth: Tensor
    T_prev_cur: Tensor
    xi_norm: Tensor
    weight: Tensor
    H: Tensor
    residual_variance: Tensor
    status: Tensor


@dataclass(frozen=True)
class Refinement:
    """Result of all iterations.

    Args:
        hidden: (B, 64, h, w).
        depth: (B, 1, h, w) metres.
        T_prev_cur: (B, 4, 4).
        weight: (B, 1, h, w), what each pixel counted in the chosen pose; None without iterations.
        H: (B, 6, 6), normal matrix of the step to the chosen pose, whose covariance, for a left
            perturbation (translation, rotation), is ``residual_variance * H^-1``; zero where there is none.
        residual_variance: (B,), of a residual of weight 1.
        pose_update_norms: (B, iterations); NaN after an early stop and where there was no step.
        status: (B,) int64, :class:`SolverStatus`, of all iterations together.
        residuals: relative residual of each evaluation.
    """

    hidden: Tensor
    depth: Tensor
    T_prev_cur: Tensor
    weight: Tensor | None
    H: Tensor
    residual_variance: Tensor
    pose_update_norms: Tensor
    status: Tensor
    residuals: list[Tensor]


def accept(proposal: Proposal, hidden: Tensor, depth: Tensor, T_prev_cur: Tensor) -> Update:
    """Take a proposal as far as it makes sense.

    A non-finite new state or depth keeps the old ones; an unsolvable pose system keeps the pose.

    Args:
        proposal: for the next state, depth and pose.
        hidden: (B, 64, h, w), the old state.
        depth: (B, 1, h, w) metres, the old one.
        T_prev_cur: (B, 4, 4), the old pose.
    """
    # a sum is finite where all its terms are (they are small), and takes one look at each
    finite = torch.isfinite(proposal.hidden.sum((1, 2, 3)) + proposal.depth.sum((1, 2, 3)))
    kept = finite[:, None, None, None]
    new_hidden = torch.where(kept, proposal.hidden, hidden)
    new_depth = torch.where(kept, proposal.depth, depth)
    status = torch.where(finite, SolverStatus.OK.value, SolverStatus.NON_FINITE.value)
    if proposal.system is None:
        never = torch.full_like(depth[:, 0, 0, 0], torch.inf)
        no_H = depth.new_zeros(len(depth), 6, 6)
        return Update(new_hidden, new_depth, T_prev_cur, never, torch.ones_like(depth), no_H, never, status)
    step = solve_alignment(proposal.system, T_prev_cur, hidden.shape[1])
    norm = torch.where(step.solved, step.xi.norm(dim=1), torch.inf)
    status = status | torch.where(step.solved, SolverStatus.OK.value, SolverStatus.POSE_UNSOLVED.value)
    return Update(
        new_hidden, new_depth, step.T_prev_cur, norm, step.weight, step.H, step.residual_variance, status
    )


def unrefined(hidden: Tensor, depth: Tensor, T_prev_cur: Tensor) -> Refinement:
    """The start as the result; see :func:`solve`."""
    B = len(depth)
    no_H, no_norms, zero = depth.new_zeros(B, 6, 6), depth.new_zeros(B, 0), depth.new_zeros(B)
    return Refinement(hidden, depth, T_prev_cur, None, no_H, zero, no_norms, zero.to(torch.int64), [])


def solve(
    update: Callable[[Tensor, Tensor, Tensor], Update],
    hidden: Tensor,
    depth: Tensor,
    T_prev_cur: Tensor,
    iterations: int,
    tolerance: float = 0.0,
) -> Refinement:
    """The fixed point of an update (paper, Sec. 3.2.3).

    Depth and state come from the solver. The pose is not part of its vector: each evaluation starts
    from the pose the last one left, and the one after the smallest step is taken, the first guess
    counting as a step of length 1.

    Args:
        update: of hidden state, depth and pose.
        hidden: (B, 64, h, w), the start.
        depth: (B, 1, h, w) metres, the start.
        T_prev_cur: (B, 4, 4), the start.
        iterations: evaluations of the update; 0 returns the start.
        tolerance: relative residual to stop at; 0 never does.
    """
    if iterations == 0:
        return unrefined(hidden, depth, T_prev_cur)
    T = best_T = T_prev_cur
    best_norm = torch.ones_like(T[:, 0, 0])
    best_weight = torch.zeros_like(depth)
    best_H, best_variance = T.new_zeros(len(T), 6, 6), torch.zeros_like(best_norm)
    status = torch.zeros_like(best_norm, dtype=torch.int64)
    norms: list[Tensor] = []

    def evaluate(state: Tensor) -> Tensor:
        nonlocal T, best_T, best_norm, best_weight, best_H, best_variance, status
        new = update(*_unpacked(state, hidden), T)
        T = new.T_prev_cur
        closer = (new.xi_norm < best_norm)[:, None, None]
        best_T = torch.where(closer, T, best_T)
        best_weight = torch.where(closer[..., None], new.weight, best_weight)
        best_H = torch.where(closer, new.H, best_H)
        best_variance = torch.where(closer[:, 0, 0], new.residual_variance, best_variance)
        best_norm = torch.minimum(new.xi_norm, best_norm)
        status = status | new.status
        norms.append(torch.where(torch.isfinite(new.xi_norm), new.xi_norm, torch.nan))
        return _packed(new.hidden, new.depth)

    point = anderson(evaluate, _packed(hidden, depth), iterations, tolerance)
    norms += [torch.full_like(best_norm, torch.nan)] * (iterations - len(norms))
    return Refinement(
        *_unpacked(point.x, hidden),
        best_T,
        best_weight,
        best_H,
        best_variance,
        torch.stack(norms, 1),
        status,
        point.residuals,
    )


def _packed(hidden: Tensor, depth: Tensor) -> Tensor:
    """Hidden state (B, C, h, w) and depth (B, 1, h, w) as the solver's vector (B, n)."""
    if hidden.is_contiguous(memory_format=torch.channels_last):
        hidden = hidden.movedim(1, -1)  # as it lies in memory: the order means nothing to the solver
    return torch.cat((hidden.flatten(1), depth.flatten(1)), 1)


def _unpacked(state: Tensor, like: Tensor) -> tuple[Tensor, Tensor]:
    """The inverse of :func:`_packed`; ``like`` (B, C, h, w) gives shape and layout of the hidden state."""
    B, C, h, w = like.shape
    hidden, depth = state.split((C * h * w, h * w), 1)
    if like.is_contiguous(memory_format=torch.channels_last):
        return hidden.view(B, h, w, C).movedim(-1, 1), depth.view(B, 1, h, w)
    return hidden.view(B, C, h, w), depth.view(B, 1, h, w)
