"""The recipe agrees with the published implementation: losses, masks, poses, disparities, gradients.

Ties in the auto-mask are broken by noise, which moves single numbers from seed to seed: one seed must be
within the reference's own spread, the mean of a few closer.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch

from dualrefine_ros.model import DualRefine, from_published
from dualrefine_ros.model.published import published_key
from dualrefine_ros.training.batch import TripletBatch
from dualrefine_ros.training.recipe import Phase, RecipeConfig, set_phase
from dualrefine_ros.training.step import StepResult, training_step

PARITY = Path(__file__).parent / "parity"
sys.path.insert(0, str(PARITY))
from deterministic_weights import make_state_dict  # noqa: E402

SEEDS = 3
LOSS_TOLERANCE, GRADIENT_TOLERANCE = 6e-3, 1e-2  # relative, a single seed
MEAN_TOLERANCE = 3e-3  # relative, mean over the seeds

with np.load(PARITY / "training_96x320.npz") as file:
    EXPECTED = {key: torch.from_numpy(file[key]) for key in file}
LOSSES = [key for key in EXPECTED if key.startswith(("loss_", "reproj_", "consistency_scale"))]
GRADIENTS = [key for key in EXPECTED if key.startswith("gradnorm_")]


@dataclass(frozen=True)
class Runs:
    """What every seed gave: numbers by their published names, and one seed's outputs."""

    numbers: dict[str, list[float]]
    result: StepResult
    model: DualRefine


def published_losses(result: StepResult) -> dict[str, float]:
    terms = {name: float(value.detach()) for name, value in result.losses.terms.items()}
    numbers = {"loss_total": float(result.losses.total.detach()), "loss_pose": terms["pose_loss"]}
    numbers |= {"loss_scale3": terms["teacher_loss_3"], "reproj_teacher_scale3": terms["teacher_reproj_3"]}
    for scale in (0, 2):
        numbers |= {
            f"loss_scale{scale}": terms[f"teacher_loss_{scale}"] + terms[f"refined_loss_{scale}"],
            f"reproj_refined_scale{scale}": terms[f"refined_reproj_{scale}"],
            f"consistency_scale{scale}": terms[f"refined_consistency_{scale}"],
        }
    return numbers


def gradient_norms(model: DualRefine) -> dict[str, float]:
    gradients = {published_key(k): p.grad for k, p in model.named_parameters() if p.grad is not None}
    norms = {}
    for name in GRADIENTS:
        group = name.removeprefix("gradnorm_")
        # in float64: the float32 norm of 12 million numbers is off by 1.5e-3
        squares = [g.double().square().sum() for k, g in gradients.items() if k.startswith(group)]
        norms[name] = float(torch.stack(squares).sum().sqrt())
    return norms


@pytest.fixture(scope="module")
def runs() -> Runs:
    model = from_published(make_state_dict())
    set_phase(model, Phase.JOINT)
    cur, prev, following = EXPECTED["images"].permute(0, 1, 4, 2, 3).unbind(1)
    images = torch.stack((prev, cur, following), 1)
    batch = TripletBatch(images, images, EXPECTED["intrinsics"].float().expand(len(images), 4))
    numbers: dict[str, list[float]] = {}
    for seed in range(SEEDS):
        model.zero_grad()
        result = training_step(model, batch, RecipeConfig(), Phase.JOINT, torch.Generator().manual_seed(seed))
        result.losses.total.backward()
        for name, value in (published_losses(result) | gradient_norms(model)).items():
            numbers.setdefault(name, []).append(value)
    return Runs(numbers, result, model)


@pytest.mark.parametrize("name", LOSSES + GRADIENTS)
def test_number(runs: Runs, name: str) -> None:
    tolerance = GRADIENT_TOLERANCE if name in GRADIENTS else LOSS_TOLERANCE
    expected = float(EXPECTED[name])
    assert runs.numbers[name] == pytest.approx([expected] * SEEDS, rel=tolerance)
    assert np.mean(runs.numbers[name]) == pytest.approx(expected, rel=MEAN_TOLERANCE)


def test_every_published_number_is_compared() -> None:
    assert len(LOSSES) == 10
    assert len(GRADIENTS) == 17


def test_every_gradient_group_is_named(runs: Runs) -> None:
    """No parameter is trained that the reference does not train."""
    groups = tuple(name.removeprefix("gradnorm_") for name in GRADIENTS)
    trained = [published_key(k) for k, p in runs.model.named_parameters() if p.grad is not None]
    assert [key for key in trained if not key.startswith(groups)] == []


def test_poses(runs: Runs) -> None:
    assert runs.result.refined is not None
    for actual, name in (
        (runs.result.teacher.T_prev_cur, "pose_teacher_prev"),
        (runs.result.teacher.T_next_cur, "pose_teacher_next"),
        (runs.result.refined.T_prev_cur, "pose_refined_prev"),
    ):
        torch.testing.assert_close(actual, EXPECTED[name], rtol=0, atol=2e-5)


def test_disparities(runs: Runs) -> None:
    assert runs.result.refined is not None
    for disparities, name in (
        (runs.result.teacher.disparities, "disp_teacher_scale2"),
        (runs.result.refined.disparities, "disp_refined_scale2"),
    ):
        torch.testing.assert_close(disparities[2], EXPECTED[name], rtol=0, atol=2e-5)


def test_consistency_mask(runs: Runs) -> None:
    assert runs.result.refined is not None
    actual = runs.result.refined.consistency_mask[:, 0]
    assert torch.equal(actual, EXPECTED["consistency_mask"].bool())
    assert 0.1 < actual.float().mean() < 0.9
