"""The deep-equilibrium refiner: depth and pose, alternating, towards a fixed point (paper, Sec. 3.2)."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn.functional import softplus

from dualrefine_ros.model.config import ModelConfig
from dualrefine_ros.model.epipolar import RADIUS, feature_levels
from dualrefine_ros.model.equilibrium import Proposal, Refinement, Update, accept, solve
from dualrefine_ros.model.layers import ResidualBlock, residual_head
from dualrefine_ros.model.pose_alignment import alignment_system
from dualrefine_ros.model.sampling import Sampler, choose
from dualrefine_ros.model.update_block import CHANNELS, UpdateBlock
from dualrefine_ros.model.update_inference import InferenceUpdate


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

    def propose(self, hidden: Tensor, depth: Tensor, T_prev_cur: Tensor, inputs: RefinerInputs) -> Proposal:
        """Depth by matching along the epipolar line, then the pose's normal equations with that depth."""
        g = self.max_update(depth)
        cost = inputs.sampler.epipolar_search(
            inputs.cur.features, inputs.prev_levels, depth, g, T_prev_cur, inputs.intrinsics
        )
        hidden = self.update_block.hidden_state(hidden, inputs.context_terms, cost, depth).float()
        step = torch.tanh(self.update_block.depth_head(hidden).float())
        depth = (depth + step * g).clamp(self.config.min_depth, self.config.max_depth)
        if not self.config.pose_updates:
            return Proposal(hidden, depth, None)
        confidence = inputs.cur.confidence if self.config.fixed_confidence else torch.ones_like(depth)
        if self.config.evolving_confidence:
            confidence = confidence * self.update_block.evolving_confidence(hidden)
        system = alignment_system(
            depth,
            T_prev_cur,
            inputs.intrinsics,
            inputs.cur.features,
            inputs.prev.features,
            confidence,
            inputs.prev.confidence if self.config.fixed_confidence else None,
            inputs.sampler.alignment_moments,
            self.config.depth_deviation,
        )
        return Proposal(hidden, depth, system)

    def update(self, hidden: Tensor, depth: Tensor, T_prev_cur: Tensor, inputs: RefinerInputs) -> Update:
        """One update of state, depth and pose; see :func:`~dualrefine_ros.model.equilibrium.accept`."""
        return accept(self.propose(hidden, depth, T_prev_cur, inputs), hidden, depth, T_prev_cur)

    def solve(
        self,
        hidden: Tensor,
        depth: Tensor,
        T_prev_cur: Tensor,
        inputs: RefinerInputs,
        iterations: int,
        tolerance: float = 0.0,
    ) -> Refinement:
        """The fixed point of :meth:`update`; see :func:`~dualrefine_ros.model.equilibrium.solve`."""
        return solve(partial(self.update, inputs=inputs), hidden, depth, T_prev_cur, iterations, tolerance)
