"""How DualRefine is trained, as the paper does by default (Sec. 3.3 and 4.2)."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from math import isfinite

from torch import nn

from dualrefine_ros.errors import ConfigError
from dualrefine_ros.model.dualrefine import DualRefine


class Estimates(str, Enum):
    """Whose depth or pose."""

    TEACHER = "teacher"
    REFINED = "refined"


class Phase(str, Enum):
    """What is trained.

    TEACHER: depth and pose teachers alone, cheaply; the refiner is not run.
    JOINT: everything.
    FROZEN: the refiner's heads and update, the teachers and their batch statistics being fixed.
    """

    TEACHER = "teacher"
    JOINT = "joint"
    FROZEN = "frozen"


@dataclass(frozen=True)
class RecipeConfig:
    """The losses and how gradients flow.

    Raises:
        ConfigError: a number is out of range.
    """

    iterations: int = 6  # evaluations of the solver, without gradient
    differentiated_updates: int = 1  # updates with gradient after it
    smoothness: float = 1e-3  # weight, at full resolution; halved at each scale
    depth_loss_pose: Estimates = Estimates.REFINED  # pose in the refined depth's loss (paper, Tab. 5)
    pose_loss_depth: Estimates = Estimates.REFINED  # depth in the refined pose's loss (paper, Tab. 5)
    consistency_pose: Estimates = Estimates.REFINED  # pose of the consistency mask (paper, Tab. 2)
    scale_consistency: float = 0.0  # weight: neighbouring depths should agree (Bian et al., 2019)
    tie_noise: float = 1e-5  # on the unwarped error: decides for half the pixels where both are equal

    def __post_init__(self) -> None:
        if self.iterations < 0 or self.differentiated_updates < 1:
            raise ConfigError(
                "A recipe needs 0 or more iterations and 1 or more differentiated updates, "
                f"not {self.iterations} and {self.differentiated_updates}."
            )
        weights = (self.smoothness, self.scale_consistency, self.tie_noise)
        if not all(weight >= 0 and isfinite(weight) for weight in weights):
            raise ConfigError(
                "smoothness, scale_consistency and tie_noise must be numbers of 0 or more, "
                f"not {', '.join(map(str, weights))}."
            )


def trained_parts(model: DualRefine, phase: Phase) -> list[nn.Module]:
    """The modules whose parameters a phase changes."""
    refiner = model.refiner
    if phase is Phase.JOINT:
        return [model]
    if phase is Phase.TEACHER:  # the refiner's upsampling makes the teacher's full resolution
        teachers: list[nn.Module] = [model.depth_backbone, model.depth_decoder, model.pose_teacher]
        return [*teachers, refiner.hidden, refiner.update_block.upsampling]
    return [refiner.matching, refiner.context, refiner.hidden, refiner.update_block]


def set_phase(model: DualRefine, phase: Phase) -> None:
    """Let gradients and batch statistics through to what the phase trains, and to nothing else."""
    model.requires_grad_(False)
    model.eval()
    for part in trained_parts(model, phase):
        part.requires_grad_(True)
        part.train()
