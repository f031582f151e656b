"""What the engine needs of a network, whoever runs it: PyTorch or another runtime."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from dualrefine_ros.model.coarse_alignment import coarse_pose
from dualrefine_ros.model.config import ModelConfig
from dualrefine_ros.model.disparity import UPSAMPLING, depth_to_disparity, disparity_to_depth
from dualrefine_ros.model.equilibrium import Refinement, Update, solve, unrefined
from dualrefine_ros.model.refiner import MatchingFeatures
from dualrefine_ros.model.sampling import choose

Updater = Callable[[Tensor, Tensor, Tensor], Update]  # of hidden state, depth and pose


@dataclass(frozen=True)
class EncodedFrame:
    """Everything that belongs to one frame alone.

    Args:
        disparity: (B, 1, H/4, W/4), the teacher's, in [0, 1].
        matching: what the refiner compares; all that is ever needed of a previous frame, but its image.
        context, hidden: (B, 64, H/4, W/4), the refiner's context and first hidden state.
    """

    disparity: Tensor
    matching: MatchingFeatures
    context: Tensor
    hidden: Tensor


class Network(nn.Module):
    """Stages of one frame; a subclass says how the heavy ones are computed."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config

    @property
    def device(self) -> torch.device:
        """Where inputs must lie."""
        return next(self.parameters()).device

    @property
    def sampler(self) -> str:
        """Which sampler of :mod:`~dualrefine_ros.model.sampling` the coarse steps take."""
        return "auto"

    @abstractmethod
    def encode(self, image: Tensor) -> EncodedFrame:
        """All that can be said of one image (B, 3, H, W), RGB in [0, 1]."""

    @abstractmethod
    def teacher_pose(self, image_cur: Tensor, image_prev: Tensor) -> Tensor:
        """The first guess of T_prev_cur (B, 4, 4) from images (B, 3, H, W), RGB in [0, 1]."""

    @abstractmethod
    def updater(self, cur: EncodedFrame, prev: MatchingFeatures, intrinsics: Tensor) -> Updater:
        """One update of state (B, 64, h, w), depth (B, 1, h, w) and T_prev_cur (B, 4, 4) on this pair.

        Args:
            cur, prev: the frames.
            intrinsics: (B, 4) at network size.
        """

    @abstractmethod
    def upsample(self, disparity: Tensor, hidden: Tensor) -> Tensor:
        """Disparity (B, 1, H/4, W/4) to (B, 1, H, W), guided by a hidden state (B, 64, H/4, W/4)."""

    def refine(
        self,
        cur: EncodedFrame,
        prev: MatchingFeatures | None,
        T_prev_cur: Tensor,
        intrinsics: Tensor,
        iterations: int,
        tolerance: float = 0.0,
    ) -> Refinement:
        """Refine depth and pose from a first guess.

        Args:
            cur: the current frame.
            prev: the previous frame; None: there is nothing to refine with.
            T_prev_cur: (B, 4, 4), the first guess.
            intrinsics: (B, 4) at network size.
            iterations: 0 returns the teacher's depth and the first guess.
            tolerance: relative residual at which the solver stops early; 0 never does.
        """
        depth = self.to_depth(cur.disparity)
        if prev is None or iterations == 0:
            return unrefined(cur.hidden, depth, T_prev_cur)
        T_prev_cur = self.start(cur, prev, depth, T_prev_cur, intrinsics)
        update = self.updater(cur, prev, intrinsics)
        return solve(update, cur.hidden, depth, T_prev_cur, iterations, tolerance)

    def start(
        self, cur: EncodedFrame, prev: MatchingFeatures, depth: Tensor, T_prev_cur: Tensor, intrinsics: Tensor
    ) -> Tensor:
        """The pose (B, 4, 4) that refinement starts from, given the teacher's depth (B, 1, h, w) and pose."""
        config = self.config
        if not (config.coarse_steps and config.pose_updates):
            return T_prev_cur
        matching = cur.matching
        if not config.fixed_confidence:
            matching, prev = (replace(m, confidence=torch.ones_like(m.confidence)) for m in (matching, prev))
        K = intrinsics / UPSAMPLING
        moments = choose(self.sampler, depth.device).alignment_moments
        return coarse_pose(matching, prev, depth, T_prev_cur, K, config.coarse_steps, moments)

    def disparity(self, refinement: Refinement) -> Tensor:
        """A refinement's disparity at input size, (B, 1, H, W)."""
        return self.upsample(self.to_disparity(refinement.depth), refinement.hidden)

    def to_depth(self, disparity: Tensor) -> Tensor:
        """Disparity in [0, 1] to depth in metres, of any shape."""
        return disparity_to_depth(disparity, self.config.min_depth, self.config.max_depth)

    def to_disparity(self, depth: Tensor) -> Tensor:
        """Depth in metres to disparity in [0, 1], of any shape."""
        return depth_to_disparity(depth, self.config.min_depth, self.config.max_depth)
