"""The losses of teacher and refiner (paper, Sec. 3.1.1, 3.3 and supplementary, Sec. 7)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from dualrefine_ros.training.forward import RefinedOutputs, TeacherOutputs
from dualrefine_ros.training.photometric import Target, smoothness, warp
from dualrefine_ros.training.recipe import Estimates, RecipeConfig
from dualrefine_ros.training.reduction import masked_mean
from dualrefine_ros.training.scale_consistency import scale_inconsistency

Terms = dict[str, Tensor]


@dataclass(frozen=True)
class Losses:
    """The total, its terms, and what is worth looking at.

    Args:
        total: scalar, differentiable.
        terms: name -> scalar: reproj, smooth, consistency and loss of each estimate and scale; pose_loss,
            scale_consistency.
        warped: (B, 3, H, W), the previous image warped by the best depth and pose there are.
        auto_mask: (B, 1, H, W) bool, the pixels that counted in the teacher's loss at full size.
    """

    total: Tensor
    terms: Terms
    warped: Tensor
    auto_mask: Tensor


@dataclass(frozen=True)
class Warped:
    """The neighbours as one depth map and two poses make them look to the current camera.

    Args:
        depth: (B, 1, H, W) metres.
        prev: (B, 3, H, W), the previous image warped.
        error_prev, error_next: pe (B, 1, H, W) of both neighbours.
    """

    depth: Tensor
    prev: Tensor
    error_prev: Tensor
    error_next: Tensor

    @property
    def error(self) -> Tensor:
        """The minimum over the neighbours: what one of them does not see should not count."""
        return torch.minimum(self.error_prev, self.error_next)


class Comparison:
    """The middle images of a batch, to be explained by their neighbours.

    Args:
        images: previous, current and next, (B, 3, H, W) in [0, 1].
        intrinsics: (B, 4) at this size.
        to_depth: disparity to depth.
        recipe: weights and noise.
        generator: of the noise that breaks ties.
    """

    def __init__(
        self,
        images: tuple[Tensor, Tensor, Tensor],
        intrinsics: Tensor,
        to_depth: Callable[[Tensor], Tensor],
        recipe: RecipeConfig,
        generator: torch.Generator | None = None,
    ) -> None:
        self.prev, self.cur, self.next = images
        self.recipe = recipe
        self._intrinsics = intrinsics
        self._to_depth = to_depth
        self._generator = generator
        self._target = Target(self.cur)
        self._unwarped = torch.minimum(
            self._target.photometric_error(self.prev), self._target.photometric_error(self.next)
        )

    def warp(self, disparity: Tensor, T_prev_cur: Tensor, T_next_cur: Tensor) -> Warped:
        """Warp both neighbours by a disparity (B, 1, h, w) of any scale and poses (B, 4, 4)."""
        full = interpolate(disparity, size=self.cur.shape[-2:], mode="bilinear", align_corners=False)
        depth = self._to_depth(full)
        prev = warp(self.prev, depth, T_prev_cur, self._intrinsics)
        following = warp(self.next, depth, T_next_cur, self._intrinsics)
        error = self._target.photometric_error
        return Warped(depth, prev, error(prev), error(following))

    def auto_mask(self, error: Tensor) -> Tensor:
        """Where warping explains the image better than leaving it as it is: (B, 1, H, W) bool."""
        noise = torch.randn(error.shape, generator=self._generator, device=error.device)
        return error < self._unwarped + self.recipe.tie_noise * noise

    def inconsistency(
        self, disparity: Tensor, disparity_prev: Tensor, T_prev_cur: Tensor, trusted: Tensor
    ) -> Tensor:
        """The weighted disagreement in scale of two frames' disparities (B, 1, h, w), h = H / 4."""
        shrink = self.cur.shape[-1] // disparity.shape[-1]
        depth, depth_prev = self._to_depth(disparity), self._to_depth(disparity_prev)
        return self.recipe.scale_consistency * scale_inconsistency(
            depth, depth_prev, T_prev_cur, self._intrinsics / shrink, trusted
        )

    def smoothness(self, disparity: Tensor, scale: int) -> Tensor:
        """The weighted smoothness term of a scale."""
        image = interpolate(self.cur, size=disparity.shape[-2:], mode="area")
        return self.recipe.smoothness / 2**scale * smoothness(disparity, image)


def teacher_losses(
    compare: Comparison, teacher: TeacherOutputs
) -> tuple[Terms, dict[int, Warped], dict[int, Tensor]]:
    """Terms ``teacher_*``, and by scale what was warped and which pixels counted."""
    terms: Terms = {}
    warped, masks = {}, {}
    for scale, disparity in teacher.disparities.items():
        warped[scale] = compare.warp(disparity, teacher.T_prev_cur, teacher.T_next_cur)
        error = warped[scale].error
        masks[scale] = compare.auto_mask(error)
        reproj, smooth = masked_mean(error, masks[scale]), compare.smoothness(disparity, scale)
        terms[f"teacher_reproj_{scale}"] = reproj
        terms[f"teacher_smooth_{scale}"] = smooth
        terms[f"teacher_loss_{scale}"] = reproj + smooth
    return terms, warped, masks


def refined_losses(
    compare: Comparison, teacher: TeacherOutputs, refined: RefinedOutputs, by_teacher: dict[int, Warped]
) -> tuple[Terms, Warped]:
    """Terms ``refined_*``, and what the full-size depth warped.

    Where matching and teacher disagree (moving objects), the refined depth follows the teacher instead.
    """
    own_pose = compare.recipe.depth_loss_pose is Estimates.REFINED
    T_prev_cur = refined.T_prev_cur if own_pose else teacher.T_prev_cur.detach()
    trusted = interpolate(refined.consistency_mask.float(), size=compare.cur.shape[-2:]) > 0.5
    terms: Terms = {}
    warped = {}
    for scale, disparity in refined.disparities.items():
        warped[scale] = compare.warp(disparity, T_prev_cur, teacher.T_next_cur.detach())
        error = warped[scale].error
        counts = compare.auto_mask(error) & trusted
        difference = (warped[scale].depth - by_teacher[scale].depth.detach()).abs()
        reproj, smooth = masked_mean(error, counts), compare.smoothness(disparity, scale)
        consistency = torch.where(counts, 0, difference).mean()
        terms[f"refined_reproj_{scale}"] = reproj
        terms[f"refined_smooth_{scale}"] = smooth
        terms[f"refined_consistency_{scale}"] = consistency
        terms[f"refined_loss_{scale}"] = reproj + smooth + consistency
    return terms, warped[0]


def pose_loss(
    compare: Comparison,
    teacher: TeacherOutputs,
    refined: RefinedOutputs,
    by_teacher: Warped,
    by_refined: Warped,
) -> Tensor:
    """How well the refined pose explains the previous image, against the teachers on the next."""
    recipe = compare.recipe
    if recipe.pose_loss_depth is Estimates.TEACHER:
        disparity = teacher.disparities[0].detach()
        by_refined = compare.warp(disparity, refined.T_prev_cur, teacher.T_next_cur.detach())
    elif recipe.depth_loss_pose is Estimates.TEACHER:
        by_refined = compare.warp(refined.disparities[0], refined.T_prev_cur, teacher.T_next_cur.detach())
    error = torch.minimum(by_refined.error_prev, by_teacher.error_next)
    return masked_mean(error, compare.auto_mask(error))


def scale_loss(compare: Comparison, teacher: TeacherOutputs, refined: RefinedOutputs | None) -> Tensor | None:
    """How far the depths of the current and the previous frame are from one scale; None where nobody asks.

    The pose is no party to it, but the best there is; the previous frame's depth follows from its teacher.
    """
    if teacher.disparity_prev is None:
        return None
    if refined is None:
        everywhere = torch.ones_like(teacher.disparities[2], dtype=torch.bool)
        T_prev_cur = teacher.T_prev_cur.detach()
        return compare.inconsistency(teacher.disparities[2], teacher.disparity_prev, T_prev_cur, everywhere)
    T_prev_cur, trusted = refined.T_prev_cur.detach(), refined.consistency_mask
    own = compare.inconsistency(teacher.disparities[2], teacher.disparity_prev, T_prev_cur, trusted)
    disparity_prev = teacher.disparity_prev.detach()
    return own + compare.inconsistency(refined.disparities[2], disparity_prev, T_prev_cur, trusted)


def total_loss(compare: Comparison, teacher: TeacherOutputs, refined: RefinedOutputs | None) -> Losses:
    """All terms and their published sum, and the consistency of scale where the recipe has a weight for it.

    Without the refiner, the teacher's share of it.
    """
    terms, by_teacher, masks = teacher_losses(compare, teacher)
    total = 2 * terms["teacher_loss_0"] + 2 * terms["teacher_loss_2"] + terms["teacher_loss_3"]
    inconsistency = scale_loss(compare, teacher, refined)
    if inconsistency is not None:
        terms["scale_consistency"] = inconsistency
        total = total + 4 * inconsistency
    if refined is None:
        return Losses(total / 4, terms, by_teacher[0].prev, masks[0])
    refined_terms, by_refined = refined_losses(compare, teacher, refined, by_teacher)
    terms |= refined_terms
    terms["pose_loss"] = pose_loss(compare, teacher, refined, by_teacher[0], by_refined)
    total = (total + terms["refined_loss_0"] + terms["refined_loss_2"]) / 4 + terms["pose_loss"]
    return Losses(total, terms, by_refined.prev, masks[0])
