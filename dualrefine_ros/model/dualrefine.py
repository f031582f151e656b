"""DualRefine (Bangunharcana et al., CVPR 2023): teacher networks and refiner put together."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from dualrefine_ros.errors import InputError
from dualrefine_ros.model.backbones import depth_backbone, normalise
from dualrefine_ros.model.config import PUBLISHED, STRIDE, ModelConfig
from dualrefine_ros.model.depth_decoder import DepthDecoder
from dualrefine_ros.model.disparity import UPSAMPLING, convex_upsample
from dualrefine_ros.model.network import EncodedFrame, Network, Updater
from dualrefine_ros.model.pose_teacher import PoseTeacher
from dualrefine_ros.model.refiner import MatchingFeatures, Refiner


@dataclass(frozen=True)
class Prediction:
    """What the network says about a pair of images; disparities are in [0, 1].

    Args:
        disp_teacher: (B, 1, H, W), from the current image alone.
        disp_refined: (B, 1, H, W); the teacher's where nothing was refined.
        T_prev_cur_teacher: (B, 4, 4), or None without a previous image.
        T_prev_cur: (B, 4, 4) refined; the teacher's with 0 iterations; None without a previous image.
        confidence: (B, 1, H/4, W/4), weight of each pixel in the pose; None where nothing was refined.
        pose_update_norms: (B, iterations), |xi| of each; NaN after an early stop and where unsolvable.
        status: (B,) int64, bits of :class:`~dualrefine_ros.model.equilibrium.SolverStatus`; 0 is all well.
    """

    disp_teacher: Tensor
    disp_refined: Tensor
    T_prev_cur_teacher: Tensor | None
    T_prev_cur: Tensor | None
    confidence: Tensor | None
    pose_update_norms: Tensor
    status: Tensor


class DualRefine(Network):
    """The whole network, in PyTorch."""

    def __init__(self, config: ModelConfig = PUBLISHED) -> None:
        super().__init__(config)
        self.depth_backbone = depth_backbone(config.depth_backbone)
        self.depth_decoder = DepthDecoder(self.depth_backbone)
        self.pose_teacher = PoseTeacher(config.pose_backbone)
        self.refiner = Refiner(config)

    @property
    def sampler(self) -> str:
        """The refiner's."""
        return self.refiner.sampler

    def encode(self, image: Tensor) -> EncodedFrame:
        """All that can be said of one image (B, 3, H, W), RGB in [0, 1]."""
        pyramid = self.depth_backbone(normalise(image))
        _, d4 = self.depth_decoder.eighth_and_quarter(pyramid)
        return self._encoded(d4, self.refiner.matching_features(pyramid.matching))

    def encode_pair(
        self, image_cur: Tensor, image_prev: Tensor
    ) -> tuple[EncodedFrame, MatchingFeatures, Tensor]:
        """Two frames (B, 3, H, W) in training: what both run through sees them as one batch.

        Returns:
            The current frame, the previous frame's matching features, and the teacher's disparity
            (B, 1, H/8, W/8), which training compares too.
        """
        pyramid, matching_prev = self.depth_backbone.pair(normalise(image_cur), normalise(image_prev))
        eighth, d4 = self.depth_decoder.eighth_and_quarter(pyramid)
        both = self.refiner.matching_features(torch.cat((pyramid.matching, matching_prev)))
        cur, prev = map(MatchingFeatures, both.features.chunk(2), both.confidence.chunk(2))
        return self._encoded(d4, cur), prev, self.depth_decoder.disparity_at(3, eighth).float()

    def teacher_disparity(self, image: Tensor) -> Tensor:
        """The teacher's disparity (B, 1, H/4, W/4) of an image (B, 3, H, W), and nothing else of it.

        In training it is a batch of its own: batch norms learn its statistics, too.
        """
        _, d4 = self.depth_decoder.eighth_and_quarter(self.depth_backbone(normalise(image)))
        disparity: Tensor = self.depth_decoder.disparity_at(2, d4).float()
        return disparity

    def _encoded(self, d4: Tensor, matching: MatchingFeatures) -> EncodedFrame:
        context, hidden = self.refiner.context_and_hidden(d4)
        return EncodedFrame(self.depth_decoder.disparity_at(2, d4).float(), matching, context, hidden)

    def encode_previous(self, image: Tensor) -> MatchingFeatures:
        """The matching features of an image (B, 3, H, W); only the backbone's stem runs."""
        return self.refiner.matching_features(self.depth_backbone.matching(normalise(image)))

    def teacher_pose(self, image_cur: Tensor, image_prev: Tensor) -> Tensor:
        """The first guess of T_prev_cur (B, 4, 4) from images (B, 3, H, W), RGB in [0, 1]."""
        return self.pose_teacher.to_previous(normalise(image_prev), normalise(image_cur))

    def teacher_pose_to_next(self, image_cur: Tensor, image_next: Tensor) -> Tensor:
        """The first guess of T_next_cur (B, 4, 4), in training."""
        return self.pose_teacher.to_next(normalise(image_cur), normalise(image_next))

    def updater(self, cur: EncodedFrame, prev: MatchingFeatures, intrinsics: Tensor) -> Updater:
        """See :meth:`Network.updater`."""
        inputs = self.refiner.inputs(cur.matching, prev, cur.context, intrinsics / UPSAMPLING)
        return partial(self.refiner.update, inputs=inputs)

    def upsample(self, disparity: Tensor, hidden: Tensor) -> Tensor:
        """Disparity (B, 1, H/4, W/4) to (B, 1, H, W), guided by a hidden state (B, 64, H/4, W/4)."""
        upsampled: Tensor = convex_upsample(disparity, self.refiner.update_block.upsampling_logits(hidden))
        return upsampled

    def forward(
        self,
        image_cur: Tensor,
        image_prev: Tensor | None,
        intrinsics: Tensor,
        iterations: int = 6,
        tolerance: float = 0.0,
    ) -> Prediction:
        """Depth of the current image and its motion from the previous one.

        Args:
            image_cur: (B, 3, H, W) float RGB in [0, 1], H and W multiples of 32.
            image_prev: the same, or None where there is none: teacher depth only.
            intrinsics: (B, 4) fx, fy, cx, cy in pixels at this size.
            iterations: refinement iterations; 0 is the teacher alone.
            tolerance: relative residual at which the solver stops early; 0 never does.

        Raises:
            InputError: shapes do not fit together, images are not floating point, ``iterations`` is no
                whole number, or it or ``tolerance`` is negative.
        """
        _check_inputs(image_cur, image_prev, intrinsics)
        if not isinstance(iterations, int) or iterations < 0 or not tolerance >= 0:
            raise InputError(
                "iterations must be a whole number and, like tolerance, 0 or more; "
                f"not {iterations} and {tolerance}."
            )
        dtype = self.refiner.delta.dtype  # of weights; autocast chooses for itself from there
        image_cur, intrinsics = image_cur.to(dtype), intrinsics.to(dtype)
        image_prev = None if image_prev is None else image_prev.to(dtype)
        cur = self.encode(image_cur)
        disp_teacher = self.upsample(cur.disparity, cur.hidden)
        if image_prev is None:
            no_norms = disp_teacher.new_zeros(len(image_cur), 0)
            status = torch.zeros(len(image_cur), dtype=torch.int64, device=image_cur.device)
            return Prediction(disp_teacher, disp_teacher, None, None, None, no_norms, status)
        T_teacher = self.teacher_pose(image_cur, image_prev)
        prev = self.encode_previous(image_prev)
        refined = self.refine(cur, prev, T_teacher, intrinsics, iterations, tolerance)
        return Prediction(
            disp_teacher,
            self.disparity(refined) if iterations else disp_teacher,
            T_teacher,
            refined.T_prev_cur,
            refined.weight,
            refined.pose_update_norms,
            refined.status,
        )


def _check_inputs(image_cur: Tensor, image_prev: Tensor | None, intrinsics: Tensor) -> None:
    """Raises InputError where the arguments of the network do not fit together."""
    if (
        image_cur.dim() != 4
        or image_cur.shape[1] != 3
        or any(s % STRIDE or not s for s in image_cur.shape[2:])
    ):
        raise InputError(
            "The network needs images (B, 3, H, W) with H and W multiples of 32, "
            f"not {tuple(image_cur.shape)}."
        )
    if not all(image.is_floating_point() for image in (image_cur, image_prev) if image is not None):
        raise InputError("The network needs images of floating point numbers in [0, 1]: divide bytes by 255.")
    if image_prev is not None and image_prev.shape != image_cur.shape:
        raise InputError(
            f"The two images differ in shape: {tuple(image_cur.shape)} and {tuple(image_prev.shape)}."
        )
    if intrinsics.shape != (image_cur.shape[0], 4):
        raise InputError(
            f"Intrinsics must be ({image_cur.shape[0]}, 4): fx, fy, cx, cy; not {tuple(intrinsics.shape)}."
        )
