"""The loss that asks neighbouring depths to be of one scale (Bian et al., 2019)."""

from __future__ import annotations

import math
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parent))
from training_helpers import INTRINSICS, TINY, batch_of

from dualrefine_ros.errors import ConfigError
from dualrefine_ros.geometry.camera import back_project
from dualrefine_ros.geometry.se3 import se3_exp
from dualrefine_ros.model import random_model
from dualrefine_ros.training.batch import as_float
from dualrefine_ros.training.losses import Comparison
from dualrefine_ros.training.recipe import Phase, RecipeConfig
from dualrefine_ros.training.scale_consistency import scale_inconsistency
from dualrefine_ros.training.step import training_step

K = torch.tensor([[50.0, 52.0, 39.5, 23.5]])
EVERYWHERE = torch.ones(1, 1, 48, 80, dtype=torch.bool)


def plane_depth(T_cam_first: Tensor) -> Tensor:
    """Depth (1, 1, 48, 80) of a slanted plane of the first camera's space, seen from another camera."""
    normal, distance = torch.tensor([0.1, -0.2, 1.0]), 4.0  # n . X = d
    R, t = T_cam_first[0, :3, :3], T_cam_first[0, :3, 3]
    moved_normal = R @ normal
    rays = back_project(torch.ones(1, 1, 48, 80), K)[0]
    return ((distance + moved_normal @ t) / torch.einsum("i,ihw->hw", moved_normal, rays))[None, None]


def test_depths_of_one_scene_agree() -> None:
    T_prev_cur = se3_exp(torch.tensor([[0.1, -0.05, 0.4, 0.01, -0.03, 0.02]]))
    first = plane_depth(torch.eye(4)[None])
    other = plane_depth(T_prev_cur)
    assert float(scale_inconsistency(first, other, T_prev_cur, K, EVERYWHERE)) < 1e-3
    wrong_way = torch.linalg.inv(T_prev_cur)
    assert float(scale_inconsistency(first, other, wrong_way, K, EVERYWHERE)) > 0.05


@pytest.mark.parametrize("scale", [0.5, 1.2, 3.0])
def test_another_scale_costs_its_share(scale: float) -> None:
    depth = plane_depth(torch.eye(4)[None])
    loss = scale_inconsistency(depth, scale * depth, torch.eye(4)[None], K, EVERYWHERE)
    assert float(loss) == pytest.approx(abs(scale - 1) / (scale + 1), rel=1e-3)


def test_only_what_is_trusted_and_seen_counts() -> None:
    depth = torch.full((1, 1, 48, 80), 4.0)
    other = depth.clone()
    other[..., 40:] = 8.0
    left = EVERYWHERE.clone()
    left[..., 36:] = False
    assert float(scale_inconsistency(depth, other, torch.eye(4)[None], K, left)) < 1e-6
    assert float(scale_inconsistency(depth, other, torch.eye(4)[None], K, EVERYWHERE)) > 0.1
    behind = torch.eye(4)[None].clone()
    behind[0, 2, 3] = -20.0
    assert float(scale_inconsistency(depth, other, behind, K, EVERYWHERE)) == 0


@pytest.mark.parametrize("phase", [Phase.TEACHER, Phase.JOINT])
def test_a_weight_asks_for_it(phase: Phase) -> None:
    batch = batch_of(2)
    recipes = {weight: RecipeConfig(iterations=1, scale_consistency=weight) for weight in (0.0, 0.5, 1.0)}
    results = {}
    for weight, recipe in recipes.items():
        generator = torch.Generator().manual_seed(0)
        results[weight] = training_step(random_model(TINY), batch, recipe, phase, generator).losses
    assert "scale_consistency" not in results[0.0].terms
    own, twice = (results[weight].terms["scale_consistency"] for weight in (0.5, 1.0))
    assert own.item() > 0
    torch.testing.assert_close(twice, 2 * own)
    torch.testing.assert_close(results[0.5].total, results[0.0].total + own)


@pytest.mark.parametrize("phase", [Phase.TEACHER, Phase.JOINT])
def test_it_moves_the_depth_and_not_the_pose(phase: Phase) -> None:
    """The pose could make any two depths agree a little better by being wrong."""
    recipe = RecipeConfig(iterations=1, scale_consistency=1.0)
    result = training_step(random_model(TINY).train(), batch_of(2), recipe, phase)
    teacher, refined = result.teacher, result.refined
    poses = [teacher.T_prev_cur] if refined is None else [teacher.T_prev_cur, refined.T_prev_cur]
    depths = [teacher.disparities[2], teacher.disparity_prev]
    depths += [] if refined is None else [refined.disparities[2]]
    term = result.losses.terms["scale_consistency"]
    gradients = torch.autograd.grad(term, [*poses, *depths], allow_unused=True, retain_graph=True)
    assert gradients[: len(poses)] == (None,) * len(poses)
    assert all(g is not None and bool(g.any()) for g in gradients[len(poses) :])


def test_the_previous_depth_follows_its_teacher_only() -> None:
    """What matching found in the current frame is no reason to change the teacher of the previous one."""
    recipe = RecipeConfig(iterations=1, scale_consistency=1.0)
    result = training_step(random_model(TINY).train(), batch_of(2), recipe, Phase.JOINT)
    refined, teacher = result.refined, result.teacher
    assert refined is not None
    assert teacher.disparity_prev is not None
    compare = Comparison(
        as_float(batch_of(2).images),
        torch.tensor([INTRINSICS]).expand(2, 4),
        random_model(TINY).to_depth,
        recipe,
    )
    trusted, T_prev_cur = refined.consistency_mask, refined.T_prev_cur.detach()
    own = compare.inconsistency(teacher.disparities[2], teacher.disparity_prev, T_prev_cur, trusted)
    (expected,) = torch.autograd.grad(own, teacher.disparity_prev, retain_graph=True)
    term = result.losses.terms["scale_consistency"]
    (gradient,) = torch.autograd.grad(term, teacher.disparity_prev, retain_graph=True)
    torch.testing.assert_close(gradient, expected)


def test_weights_are_checked() -> None:
    for wrong in (-1.0, math.nan, math.inf):
        with pytest.raises(ConfigError, match="scale_consistency"):
            replace(RecipeConfig(), scale_consistency=wrong)
