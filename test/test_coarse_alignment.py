"""Pose steps on coarse maps: what they are for, and that they do no harm."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from dualrefine_ros.errors import ConfigError
from dualrefine_ros.geometry.camera import back_project, project, transform
from dualrefine_ros.geometry.se3 import se3_exp
from dualrefine_ros.model import PUBLISHED, SMALL, random_model
from dualrefine_ros.model.coarse_alignment import coarse_pose, shrunk_intrinsics
from dualrefine_ros.model.pose_alignment import gauss_newton_step
from dualrefine_ros.model.refiner import MatchingFeatures

K = torch.tensor([[100.0, 104.0, 63.5, 35.5]])


def textured(u: Tensor, v: Tensor) -> Tensor:
    """Features (B, 6, h, w): fine detail that repeats every 7 pixels, and coarse shapes."""
    fine = (torch.sin(u * 0.9), torch.cos(v * 0.9), torch.sin((u + v) * 0.8))
    coarse = (torch.sin(u / 14), torch.cos(v / 12 + u / 40), torch.sin((u - v) / 17))
    return torch.stack((*fine, *(2 * c for c in coarse)), 1)


def turning(degrees: float) -> tuple[MatchingFeatures, MatchingFeatures, Tensor, Tensor]:
    """Both frames of a camera that goes forward and turns, the depth, and T_prev_cur."""
    v, u = torch.meshgrid(torch.arange(72.0), torch.arange(128.0), indexing="ij")
    depth = (4 + torch.sin(u / 30) - v / 60)[None, None]
    yaw = torch.deg2rad(torch.tensor(degrees))
    T = se3_exp(torch.stack((*torch.tensor([0.0, 0.0, 0.2, 0.0]), yaw, torch.zeros(())))[None])
    pixels = project(transform(T, back_project(depth, K)), K)
    sure = torch.ones(1, 1, 72, 128)
    cur = MatchingFeatures(textured(pixels[:, 0], pixels[:, 1]), sure)
    return cur, MatchingFeatures(textured(u[None], v[None]), sure), depth, T


def degrees_off(T: Tensor, T_true: Tensor) -> float:
    R = T[0, :3, :3].T @ T_true[0, :3, :3]
    return float(torch.rad2deg(torch.linalg.vector_norm(R - R.T) / 8**0.5))


def refined(cur: MatchingFeatures, prev: MatchingFeatures, depth: Tensor, T: Tensor) -> Tensor:
    for _ in range(8):
        T = gauss_newton_step(
            depth, T, K, cur.features, prev.features, None, None, depth_deviation=10.0
        ).T_prev_cur
    return T


def test_a_turn_that_fine_maps_miss_is_found() -> None:
    cur, prev, depth, T_true = turning(5.0)
    start = se3_exp(torch.tensor([[0.0, 0.0, 0.2, 0.0, 0.0, 0.0]]))  # a guess that knows of no turn
    assert degrees_off(refined(cur, prev, depth, start), T_true) > 1
    coarse = coarse_pose(cur, prev, depth, start, K, 4)
    assert degrees_off(coarse, T_true) < 1.5
    assert degrees_off(refined(cur, prev, depth, coarse), T_true) < 0.1


def test_a_good_guess_stays_good() -> None:
    cur, prev, depth, T_true = turning(1.0)
    coarse = coarse_pose(cur, prev, depth, T_true, K, 4)
    assert degrees_off(coarse, T_true) < 1
    assert degrees_off(refined(cur, prev, depth, coarse), T_true) < 0.1


def test_without_texture_the_guess_stays() -> None:
    _, _, depth, T = turning(2.0)
    blank = MatchingFeatures(torch.zeros(1, 6, 72, 128), torch.ones(1, 1, 72, 128))
    assert torch.equal(coarse_pose(blank, blank, depth, T, K, 3), T)


def test_a_coarse_pixel_lies_between_those_it_is_the_mean_of() -> None:
    """What is seen at the middle of 4 x 4 pixels is seen at the centre of theirs."""
    P = back_project(torch.full((1, 1, 72, 128), 3.0), K)
    fine = project(P[:, :, 9:11, 13:15], K).mean((2, 3))  # around (13.5, 9.5)
    coarse = project(P[:, :, 9:11, 13:15].mean((2, 3), keepdim=True), shrunk_intrinsics(K, 4))[:, :, 0, 0]
    torch.testing.assert_close(coarse, (fine - 1.5) / 4)


def test_a_network_starts_from_it() -> None:
    image, previous = torch.rand(2, 1, 3, 64, 96, generator=torch.Generator().manual_seed(0))
    intrinsics = torch.tensor([[60.0, 60.0, 48.0, 32.0]])
    predictions = []
    for steps in (0, 2):
        model = random_model(replace(SMALL, height=64, width=96, coarse_steps=steps))
        with torch.inference_mode():
            predictions.append(model(image, previous, intrinsics, iterations=1))
            unrefined = model(image, previous, intrinsics, iterations=0)
        assert unrefined.T_prev_cur is unrefined.T_prev_cur_teacher  # 0 iterations are the teacher alone
    teachers = [p.T_prev_cur_teacher for p in predictions]
    assert torch.equal(*teachers)
    assert not torch.allclose(*(p.T_prev_cur for p in predictions))


def test_the_papers_network_has_none() -> None:
    assert PUBLISHED.coarse_steps == 0
    with pytest.raises(ConfigError, match="coarse_steps"):
        replace(PUBLISHED, coarse_steps=-1)
