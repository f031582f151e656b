"""Photometric building blocks against independent oracles; phases, pairings and memory of the recipe."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.ndimage import uniform_filter

sys.path.insert(0, str(Path(__file__).parent))
from training_helpers import TINY, batch_of

from dualrefine_ros.model import DualRefine, random_model
from dualrefine_ros.training.consistency import coarse_depth, consistent
from dualrefine_ros.training.photometric import Target, smoothness, warp
from dualrefine_ros.training.recipe import Estimates, Phase, RecipeConfig, set_phase
from dualrefine_ros.training.step import StepResult, training_step

QUIET = RecipeConfig(tie_noise=0.0)


@pytest.fixture(scope="module")
def model() -> DualRefine:
    return random_model(TINY)


def step(model: DualRefine, recipe: RecipeConfig = QUIET, phase: Phase = Phase.JOINT) -> StepResult:
    set_phase(model, phase)
    model.zero_grad()
    result = training_step(model, batch_of(2), recipe, phase)
    result.losses.total.backward()
    return result


def test_dissimilarity_is_ssim_by_scipy() -> None:
    rng = np.random.default_rng(0)
    x, y = rng.uniform(0, 1, (2, 20, 30))

    def mean(a: np.ndarray) -> np.ndarray:
        return uniform_filter(a, 3, mode="mirror")

    vx, vy = mean(x * x) - mean(x) ** 2, mean(y * y) - mean(y) ** 2
    cov = mean(x * y) - mean(x) * mean(y)
    ssim = (
        (2 * mean(x) * mean(y) + 1e-4)
        * (2 * cov + 9e-4)
        / ((mean(x) ** 2 + mean(y) ** 2 + 1e-4) * (vx + vy + 9e-4))
    )
    found = Target(torch.tensor(x)[None, None]).dissimilarity(torch.tensor(y)[None, None])
    np.testing.assert_allclose(found[0, 0], np.clip((1 - ssim) / 2, 0, 1), atol=1e-6)
    target = Target(torch.tensor(x)[None, None])
    np.testing.assert_allclose(
        target.photometric_error(torch.tensor(y)[None, None])[0, 0],
        0.85 * np.clip((1 - ssim) / 2, 0, 1) + 0.15 * np.abs(x - y),
        atol=1e-6,
    )


def test_an_image_differs_from_itself_by_nothing() -> None:
    image = torch.rand(1, 3, 8, 8)
    assert Target(image).photometric_error(image).abs().max() < 1e-6


def test_warp_by_a_sideways_motion_is_a_shift() -> None:
    image = torch.rand(1, 3, 16, 24)
    intrinsics = torch.tensor([[10.0, 10.0, 11.5, 7.5]])
    T = torch.eye(4)[None].clone()
    T[0, 0, 3] = 1.0  # at depth 5: 2 pixels
    warped = warp(image, torch.full((1, 1, 16, 24), 5.0), T, intrinsics)
    torch.testing.assert_close(warped[..., :-2], image[..., 2:], atol=1e-5, rtol=0)
    torch.testing.assert_close(warped[..., -1], image[..., -1], atol=1e-5, rtol=0)  # the border goes on


def test_smoothness_is_scale_free_and_lets_edges_be() -> None:
    disparity = torch.rand(2, 1, 12, 16) + 0.1
    flat = torch.zeros(2, 3, 12, 16)
    assert smoothness(3 * disparity, flat).item() == pytest.approx(smoothness(disparity, flat).item(), 1e-4)
    assert smoothness(torch.ones(2, 1, 12, 16), flat).item() == 0.0
    jump = torch.ones(1, 1, 12, 16)
    jump[..., 8:] = 2.0
    edge = torch.zeros(1, 3, 12, 16)
    edge[..., 8:] = 1.0
    assert smoothness(jump, edge).item() == pytest.approx(smoothness(jump, edge * 0).item() / np.e, rel=1e-5)


def test_coarse_depth_finds_a_plane() -> None:
    """Features that shift by a known disparity; the teacher is off by less than a factor 8."""
    torch.manual_seed(0)
    features = torch.rand(1, 16, 12, 40)
    intrinsics = torch.tensor([[20.0, 20.0, 19.5, 5.5]])
    T = torch.eye(4)[None].clone()
    T[0, 0, 3] = 1.0
    shifted = torch.roll(features, 4, -1)  # u + 4: depth 5
    found = coarse_depth(features, shifted, torch.full((1, 1, 12, 40), 2.0), T, intrinsics, (0.1, 100.0))
    inner = found[..., :34]
    assert (inner - 5).abs().max() < 0.2
    assert not consistent(found, torch.full_like(found, 2.0))[..., :34].any()
    assert consistent(found, torch.full_like(found, 3.0))[..., :34].all()
    assert not consistent(found, torch.full_like(found, 11.0))[..., :34].any()


@pytest.mark.parametrize("phase", list(Phase))
def test_a_phase_trains_what_it_should(model: DualRefine, phase: Phase) -> None:
    statistics = {k: v.clone() for k, v in model.named_buffers() if "running" in k}
    step(model, phase=phase)
    trained = {k for k, p in model.named_parameters() if p.grad is not None and p.grad.abs().max() > 0}
    moved = {k for k, v in model.named_buffers() if "running" in k and not torch.equal(v, statistics[k])}
    rooms = {key.rsplit(".", 1)[0] for key in trained | moved}

    def any_in(prefix: str, keys: set[str]) -> bool:
        return any(key.startswith(prefix) for key in keys)

    teachers = ("depth_backbone.", "depth_decoder.", "pose_teacher.")
    refiner = ("refiner.matching.", "refiner.context.", "refiner.update_block.gru.")
    fixed_when_frozen = (*teachers, "refiner.fixed_confidence.", "refiner.delta")
    assert all(any_in(prefix, trained) == (phase is not Phase.FROZEN) for prefix in teachers)
    assert all(any_in(prefix, trained) == (phase is not Phase.TEACHER) for prefix in refiner)
    assert any_in("refiner.update_block.upsampling.", trained)
    assert any_in("depth_backbone.", moved) == (phase is not Phase.FROZEN)
    if phase is Phase.FROZEN:
        assert not any(any_in(prefix, trained | moved | rooms) for prefix in fixed_when_frozen)


@pytest.mark.parametrize(
    "changed",
    [
        replace(QUIET, depth_loss_pose=Estimates.TEACHER),
        replace(QUIET, pose_loss_depth=Estimates.TEACHER),
        replace(QUIET, depth_loss_pose=Estimates.TEACHER, pose_loss_depth=Estimates.TEACHER),
        replace(QUIET, differentiated_updates=2),
    ],
    ids=["depth with teacher pose", "pose with teacher depth", "both with teacher", "two updates"],
)
def test_choices_change_the_gradient(model: DualRefine, changed: RecipeConfig) -> None:
    key = "refiner.update_block.depth_head.conv2.bias"
    parameters = dict(model.named_parameters())
    gradients = []
    for recipe in (QUIET, changed):
        step(model, recipe)
        gradients.append(parameters[key].grad.clone())
    assert not torch.allclose(gradients[0], gradients[1], rtol=1e-4)


def test_a_pose_loss_with_teacher_depth_leaves_depth_alone(model: DualRefine) -> None:
    """With both pairings the teacher's, the pose loss reaches depth through the alignment only."""
    both = replace(QUIET, depth_loss_pose=Estimates.TEACHER, pose_loss_depth=Estimates.TEACHER)
    set_phase(model, Phase.JOINT)
    result = training_step(model, batch_of(2), both, Phase.JOINT)
    assert result.refined is not None
    to_disparity = torch.autograd.grad(
        result.losses.terms["pose_loss"], result.refined.disparities[0], allow_unused=True
    )
    assert to_disparity == (None,)


def test_updates_of_the_pose_can_be_switched_off() -> None:
    fixed = random_model(replace(TINY, pose_updates=False))
    result = step(fixed)
    assert result.refined is not None
    torch.testing.assert_close(result.refined.T_prev_cur, result.teacher.T_prev_cur.detach())


def consistency_mask(model: DualRefine, pose: Estimates) -> torch.Tensor:
    refined = step(model, replace(QUIET, consistency_pose=pose)).refined
    assert refined is not None
    return refined.consistency_mask


def test_the_consistency_mask_is_of_the_chosen_pose(model: DualRefine) -> None:
    """The two poses differ, unless updates of the pose are switched off."""
    assert not torch.equal(*(consistency_mask(model, pose) for pose in Estimates))
    fixed = random_model(replace(TINY, pose_updates=False))
    assert torch.equal(*(consistency_mask(fixed, pose) for pose in Estimates))


@pytest.mark.parametrize("fixed", [True, False])
@pytest.mark.parametrize("evolving", [True, False])
def test_a_confidence_that_is_switched_off_learns_nothing(fixed: bool, evolving: bool) -> None:
    network = random_model(replace(TINY, fixed_confidence=fixed, evolving_confidence=evolving))
    result = step(network)
    assert torch.isfinite(result.losses.total)
    learns = {k for k, p in network.named_parameters() if p.grad is not None and p.grad.abs().max() > 0}
    assert any(k.startswith("refiner.fixed_confidence.") for k in learns) == fixed
    assert any(k.startswith("refiner.update_block.evolving_confidence.") for k in learns) == evolving


def saved_bytes(model: DualRefine, iterations: int) -> int:
    """Bytes that a step keeps for its backward pass."""
    sizes: dict[int, int] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        sizes[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    set_phase(model, Phase.JOINT)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        result = training_step(model, batch_of(2), replace(QUIET, iterations=iterations), Phase.JOINT)
    assert result.losses.total.requires_grad
    return sum(sizes.values())


def test_memory_does_not_grow_with_iterations(model: DualRefine) -> None:
    six, twelve = saved_bytes(model, 6), saved_bytes(model, 12)
    assert twelve == pytest.approx(six, rel=0.01)
