"""The deep-equilibrium refiner: depth and pose, alternating, towards a fixed point (paper, Sec. 3.2)."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntFlag

import torch
from torch import Tensor, nn
from torch.nn.functional import softplus

from dualrefine_ros.model.anderson import anderson
from dualrefine_ros.model.config import ModelConfig
from dualrefine_ros.model.epipolar import RADIUS, feature_levels
from dualrefine_ros.model.layers import ResidualBlock, residual_head
from dualrefine_ros.model.pose_alignment import gauss_newton_step
from dualrefine_ros.model.sampling import Sampler, choose
from dualrefine_ros.model.update_block import CHANNELS, UpdateBlock
from dualrefine_ros.model.update_inference import InferenceUpdate


class SolverStatus(IntFlag):
    """What happened to a batch element; 0 is all well."""

    OK = 0
    POSE_UNSOLVED = 1  # a pose system could not be solved; that iteration left the pose as it was
    NON_FINITE = 2  # an iteration gave NaN or Inf; the last finite depth and state stand


@dataclass(frozen=True)
class MatchingFeatures:
    """What the refiner needs of one frame, be it the current or the previous one.

    Args:
        features: (B, 64, h, w).
        confidence: (B, 1, h, w) in (0, 1], the frame's own confidence.
    """

    features: Tensor
    confidence: Tensor


@dataclass(frozen=True)
class RefinerInputs:
    """What stays the same during all iterations on one pair of frames.

    Args:
        cur, prev: matching features of the two frames.
        prev_levels: ``prev.features`` at three resolutions.
        context_terms: the context's share of the GRU.
        intrinsics: (B, 4) at refinement size.
        sampler: the implementation for this device.
    """

    cur: MatchingFeatures
    prev: MatchingFeatures
    prev_levels: list[Tensor]
    context_terms: tuple[Tensor, Tensor]
    intrinsics: Tensor
    sampler: Sampler


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


class FixedConfidence(nn.Module):
    """A frame's own confidence, computed once (paper, Sec. 3.2.2; Sarlin et al., 2021)."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.Sequential(
            ResidualBlock(CHANNELS, nn.BatchNorm2d), ResidualBlock(CHANNELS, nn.BatchNorm2d)
        )
        self.head = nn.Conv2d(CHANNELS, 1, 1, bias=False)

    def forward(self, q: Tensor) -> Tensor:
        """`q` (B, 64, h, w) to (B, 1, h, w) in (0, 1]."""
        return 1.0 / (1.0 + torch.relu(self.head(self.blocks(q)).float()))


class Refiner(nn.Module):
    """Feature heads, the update, and its fixed point."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.sampler = "auto"  # see dualrefine_ros.model.sampling
        self.matching = residual_head(CHANNELS)
        self.context = residual_head(CHANNELS)
        self.hidden = residual_head(CHANNELS)
        self.fixed_confidence = FixedConfidence()
        self.update_block: UpdateBlock | InferenceUpdate = UpdateBlock()
        self.delta = nn.Parameter(torch.zeros(1))

    def matching_features(self, q: Tensor) -> MatchingFeatures:
        """From `q` (B, 64, h, w) of either frame."""
        features = self.matching(q).float().contiguous(memory_format=torch.channels_last)
        return MatchingFeatures(features, self.fixed_confidence(q))

    def context_and_hidden(self, d4: Tensor) -> tuple[Tensor, Tensor]:
        """Context and first hidden state, (B, 64, h, w) each, from the decoder's 1/4 map."""
        return torch.relu(self.context(d4)), torch.tanh(self.hidden(d4).float())

    def inputs(
        self, cur: MatchingFeatures, prev: MatchingFeatures, context: Tensor, intrinsics: Tensor
    ) -> RefinerInputs:
        """What all iterations share; intrinsics (B, 4) at refinement size."""
        terms = self.update_block.context_terms(context)
        sampler = choose(self.sampler, context.device)
        return RefinerInputs(cur, prev, feature_levels(prev.features), terms, intrinsics, sampler)

    def max_update(self, depth: Tensor) -> Tensor:
        """g (B, 1, h, w) in metres: the largest depth update, and half the width of the finest search."""
        return softplus(self.delta) * depth / RADIUS

    def update(self, hidden: Tensor, depth: Tensor, T_prev_cur: Tensor, inputs: RefinerInputs) -> Update:
        """Depth by matching along the epipolar line, then pose by alignment with that depth.

        A non-finite new state keeps the old one; an unsolvable pose system keeps the pose.
        """
        g = self.max_update(depth)
        cost = inputs.sampler.epipolar_search(
            inputs.cur.features, inputs.prev_levels, depth, g, T_prev_cur, inputs.intrinsics
        )
        new_hidden = self.update_block.hidden_state(hidden, inputs.context_terms, cost, depth).float()
        step = torch.tanh(self.update_block.depth_head(new_hidden).float())
        new_depth = (depth + step * g).clamp(self.config.min_depth, self.config.max_depth)

        # a sum is finite where all its terms are (they are small), and takes one look at each
        finite = torch.isfinite(new_hidden.sum((1, 2, 3)) + new_depth.sum((1, 2, 3)))
        kept = finite[:, None, None, None]
        new_hidden = torch.where(kept, new_hidden, hidden)
        new_depth = torch.where(kept, new_depth, depth)
        status = torch.where(finite, SolverStatus.OK.value, SolverStatus.NON_FINITE.value)
        return self._align(new_hidden, new_depth, T_prev_cur, inputs, status)

    def _align(
        self, hidden: Tensor, depth: Tensor, T_prev_cur: Tensor, inputs: RefinerInputs, status: Tensor
    ) -> Update:
        config = self.config
        if not config.pose_updates:
            never = torch.full_like(depth[:, 0, 0, 0], torch.inf)
            no_H = depth.new_zeros(len(depth), 6, 6)
            return Update(hidden, depth, T_prev_cur, never, torch.ones_like(depth), no_H, never, status)
        confidence = inputs.cur.confidence if config.fixed_confidence else torch.ones_like(depth)
        if config.evolving_confidence:
            confidence = confidence * self.update_block.evolving_confidence(hidden)
        step = gauss_newton_step(
            depth,
            T_prev_cur,
            inputs.intrinsics,
            inputs.cur.features,
            inputs.prev.features,
            confidence,
            inputs.prev.confidence if config.fixed_confidence else None,
            inputs.sampler.alignment_moments,
        )
        norm = torch.where(step.solved, step.xi.norm(dim=1), torch.inf)
        status = status | torch.where(step.solved, SolverStatus.OK.value, SolverStatus.POSE_UNSOLVED.value)
        return Update(
            hidden, depth, step.T_prev_cur, norm, step.weight, step.H, step.residual_variance, status
        )

    def solve(
        self,
        hidden: Tensor,
        depth: Tensor,
        T_prev_cur: Tensor,
        inputs: RefinerInputs,
        iterations: int,
        tolerance: float = 0.0,
    ) -> Refinement:
        """The fixed point of :meth:`update` (paper, Sec. 3.2.3).

        Depth and state come from the solver. The pose is not part of its vector: each evaluation starts
        from the pose the last one left, and the one after the smallest step is taken, the first guess
        counting as a step of length 1.

        Args:
            hidden: (B, 64, h, w), the start.
            depth: (B, 1, h, w) metres, the start.
            T_prev_cur: (B, 4, 4), the start.
            inputs: see :class:`RefinerInputs`.
            iterations: evaluations of the update; 0 returns the start.
            tolerance: relative residual to stop at; 0 never does.
        """
        T = best_T = T_prev_cur
        best_norm = torch.ones_like(T[:, 0, 0])
        best_weight = torch.zeros_like(depth)
        best_H, best_variance = T.new_zeros(len(T), 6, 6), torch.zeros_like(best_norm)
        status = torch.zeros_like(best_norm, dtype=torch.int64)
        if iterations == 0:
            return Refinement(
                hidden, depth, T, None, best_H, best_variance, T.new_zeros(len(T), 0), status, []
            )
        norms: list[Tensor] = []

        def evaluate(state: Tensor) -> Tensor:
            nonlocal T, best_T, best_norm, best_weight, best_H, best_variance, status
            update = self.update(*_unpacked(state, hidden), T, inputs)
            T = update.T_prev_cur
            closer = (update.xi_norm < best_norm)[:, None, None]
            best_T = torch.where(closer, T, best_T)
            best_weight = torch.where(closer[..., None], update.weight, best_weight)
            best_H = torch.where(closer, update.H, best_H)
            best_variance = torch.where(closer[:, 0, 0], update.residual_variance, best_variance)
            best_norm = torch.minimum(update.xi_norm, best_norm)
            status = status | update.status
            norms.append(torch.where(torch.isfinite(update.xi_norm), update.xi_norm, torch.nan))
            return _packed(update.hidden, update.depth)

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
