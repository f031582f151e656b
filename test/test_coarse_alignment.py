"""Pose steps on coarse maps: what they are for, what they are, and that they do no harm."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d

from dualrefine_ros.errors import ConfigError
from dualrefine_ros.geometry.camera import back_project, project, transform
from dualrefine_ros.geometry.se3 import se3_exp
from dualrefine_ros.model import PUBLISHED, SMALL, coarse_alignment, network, random_model
from dualrefine_ros.model.coarse_alignment import coarse_pose, explains_better, image_turn, shrunk_intrinsics
from dualrefine_ros.model.equilibrium import solve
from dualrefine_ros.model.pose_alignment import (
    AlignmentSystem,
    PoseStep,
    alignment_system,
    gauss_newton_step,
    solve_alignment,
)
from dualrefine_ros.model.refiner import MatchingFeatures
from dualrefine_ros.model.sampling import choose

K = torch.tensor([[100.0, 104.0, 63.5, 35.5]])
HEIGHT, WIDTH = 72, 128
Scene = tuple[MatchingFeatures, MatchingFeatures, Tensor, Tensor]


def twist(*xi: float, degrees: float = 0.0) -> Tensor:
    """A motion (1, 4, 4) along ``xi``, turned by an angle about the y axis."""
    return se3_exp(torch.tensor([[*xi, 0.0, np.radians(degrees), 0.0]], dtype=torch.float32))


def textured(u: Tensor, v: Tensor) -> Tensor:
    """Features (B, 6, h, w): fine detail that repeats every 7 pixels, and coarse shapes."""
    fine = (torch.sin(u * 0.9), torch.cos(v * 0.9), torch.sin((u + v) * 0.8))
    coarse = (torch.sin(u / 14), torch.cos(v / 12 + u / 40), torch.sin((u - v) / 17))
    return torch.stack((*fine, *(2 * c for c in coarse)), 1)


def turning(degrees: float) -> Scene:
    """Both frames of a camera that goes forward and turns, the depth, and T_prev_cur."""
    v, u = torch.meshgrid(torch.arange(float(HEIGHT)), torch.arange(float(WIDTH)), indexing="ij")
    depth = (4 + torch.sin(u / 30) - v / 60)[None, None]
    T = twist(0.0, 0.0, 0.2, degrees=degrees)
    pixels = project(transform(T, back_project(depth, K)), K)
    cur = MatchingFeatures(textured(pixels[:, 0], pixels[:, 1]), (0.5 + 0.3 * torch.sin(u / 9))[None, None])
    prev = MatchingFeatures(textured(u[None], v[None]), (0.6 + 0.3 * torch.cos(v / 7))[None, None])
    return cur, prev, depth, T


def degrees_off(T: Tensor, T_true: Tensor) -> float:
    R = T[0, :3, :3].T @ T_true[0, :3, :3]
    return float(torch.rad2deg(torch.linalg.vector_norm(R - R.T) / 8**0.5))


def refined(cur: MatchingFeatures, prev: MatchingFeatures, depth: Tensor, T: Tensor) -> Tensor:
    for _ in range(8):
        T = gauss_newton_step(
            depth, T, K, cur.features, prev.features, None, None, depth_deviation=10.0
        ).T_prev_cur
    return T


def by_hand(scene: Scene, T: Tensor, steps: int) -> Tensor:
    """The steps without any judgement of what comes of them, of the first of a batch."""
    cur, prev, depth, _ = scene
    for shrink in (4, 2):
        fx, fy, cx, cy = K[0].tolist()
        middle = (shrink - 1) / 2
        small_K = torch.tensor([[fx / shrink, fy / shrink, (cx - middle) / shrink, (cy - middle) / shrink]])
        arguments = [avg_pool2d(m, shrink) for m in (cur.features, prev.features)]
        arguments += [avg_pool2d(m, shrink) for m in (cur.confidence, prev.confidence)]
        small_depth = avg_pool2d(depth, shrink)
        for _ in range(steps):
            if shrink == 4:
                system = alignment_system(small_depth, T, small_K, *arguments, depth_deviation=1.0)
                w = -np.linalg.solve(system.H[0, 3:, 3:].double().numpy(), system.b[0, 3:].double().numpy())
                T = se3_exp(torch.tensor([[0.0, 0.0, 0.0, *w]], dtype=torch.float32)) @ T
            else:
                T = gauss_newton_step(small_depth, T, small_K, *arguments, depth_deviation=1.0).T_prev_cur
    return T


def test_a_turn_that_fine_maps_miss_is_found() -> None:
    cur, prev, depth, T_true = turning(5.0)
    start = twist(0.0, 0.0, 0.2)  # a guess that knows of no turn
    assert degrees_off(refined(cur, prev, depth, start), T_true) > 1
    coarse = coarse_pose(cur, prev, depth, start, K, 4)
    assert degrees_off(coarse, T_true) < 1.5
    assert degrees_off(refined(cur, prev, depth, coarse), T_true) < 0.1


@pytest.mark.parametrize("steps", [1, 3])
def test_the_coarsest_map_moves_the_rotation_alone_the_next_everything(steps: int) -> None:
    scene, start = turning(3.0), twist(0.0, 0.02, 0.25)
    expected = by_hand(scene, start, steps)
    assert degrees_off(expected, start) > 2
    torch.testing.assert_close(coarse_pose(*scene[:3], start, K, steps), expected, rtol=1e-4, atol=1e-5)


def test_the_native_sampler_finds_the_same() -> None:
    scene, start = turning(3.0), twist(0.0, 0.0, 0.2)
    moments = choose("auto", torch.device("cpu")).alignment_moments
    torch.testing.assert_close(
        coarse_pose(*scene[:3], start, K, 2, moments), coarse_pose(*scene[:3], start, K, 2)
    )


def test_a_good_guess_stays_as_it_is() -> None:
    cur, prev, depth, T_true = turning(1.0)
    assert torch.equal(coarse_pose(cur, prev, depth, T_true, K, 4), T_true)


def test_less_than_a_pixel_is_left_to_the_fine_map(monkeypatch: pytest.MonkeyPatch) -> None:
    cur, prev, depth, T_true = turning(1.0)
    guess = twist(0.0, 0.0, 0.0, degrees=0.45) @ T_true  # 0.8 pixels
    assert torch.equal(coarse_pose(cur, prev, depth, guess, K, 2), guess)
    monkeypatch.setattr(coarse_alignment, "REACH", 0.1)
    assert not torch.equal(coarse_pose(cur, prev, depth, guess, K, 2), guess)


def test_the_second_map_is_asked_only_where_the_first_sees_a_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Tensor] = []

    def spy(system: AlignmentSystem, T_prev_cur: Tensor, channels: int) -> PoseStep:
        asked.append(T_prev_cur)
        return solve_alignment(system, T_prev_cur, channels)

    monkeypatch.setattr(coarse_alignment, "solve_alignment", spy)
    cur, prev, depth, T_true = turning(1.0)
    for degrees, times in ((-0.15, 0), (2.0, 2)):  # 0.3 and 3.5 pixels
        asked.clear()
        found = coarse_pose(cur, prev, depth, twist(0.0, 0.0, 0.0, degrees=degrees) @ T_true, K, 2)
        assert len(asked) == times
    assert degrees_off(found, T_true) < 0.5


def test_frames_that_have_nothing_in_common_do_not_turn_it(monkeypatch: pytest.MonkeyPatch) -> None:
    cur, _, depth, guess = turning(1.0)
    generator = torch.Generator().manual_seed(3)
    noise = avg_pool2d(torch.randn(1, 6, HEIGHT + 8, WIDTH + 8, generator=generator), 9, stride=1)
    other = MatchingFeatures(10 * noise, torch.ones(1, 1, HEIGHT, WIDTH))
    assert torch.equal(coarse_pose(cur, other, depth, guess, K, 2), guess)
    monkeypatch.setattr(coarse_alignment, "LEFT", 1.0)  # a little better is not enough
    assert degrees_off(coarse_pose(cur, other, depth, guess, K, 2), guess) > 0.8


def test_without_texture_the_guess_stays() -> None:
    _, _, depth, T = turning(2.0)
    blank = MatchingFeatures(torch.zeros(1, 6, HEIGHT, WIDTH), torch.ones(1, 1, HEIGHT, WIDTH))
    assert torch.equal(coarse_pose(blank, blank, depth, T, K, 3), T)


def test_each_of_a_batch_is_judged_for_itself() -> None:
    scenes = [turning(degrees) for degrees in (0.1, 4.0, 0.2)]
    cur, prev = (
        MatchingFeatures(
            *(torch.cat([getattr(s[i], name) for s in scenes]) for name in ("features", "confidence"))
        )
        for i in (0, 1)
    )
    cur.features[2, :, 30:] = torch.nan
    depth, guess = torch.cat([s[2] for s in scenes]), twist(0.0, 0.0, 0.2).repeat(3, 1, 1)
    found = coarse_pose(cur, prev, depth, guess, K.repeat(3, 1), 2)
    assert torch.equal(found[0], guess[0])
    assert torch.equal(found[2], guess[2])
    torch.testing.assert_close(found[1:2], by_hand(scenes[1], guess[1:2], 2), rtol=1e-4, atol=1e-5)


def system(seen: list[float], mean_square: list[float]) -> AlignmentSystem:
    weight = torch.tensor(seen)[:, None, None, None] / 12 * torch.ones(1, 1, 3, 4)
    squares = torch.tensor(seen) * torch.tensor(mean_square)
    return AlignmentSystem(torch.zeros(len(seen), 6, 6), torch.zeros(len(seen), 6), weight, squares)


def test_better_is_clearly_less_residual_on_half_the_pixels_or_more() -> None:
    after = system([8.0, 8.0, 20.0, 4.0, 0.0], [0.7, 0.9, 0.7, 0.1, 0.0])
    before = system([10.0, 10.0, 10.0, 10.0, 0.0], [1.0, 1.0, 1.0, 1.0, 0.0])
    assert explains_better(after, before).tolist() == [True, False, True, False, False]


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_turning_is_measured_in_pixels(axis: int) -> None:
    v, u = np.mgrid[:HEIGHT, :WIDTH]
    x, y, angle = (u - 63.5) / 100, (v - 35.5) / 104, 0.01
    flow = {0: (-x * y, -1 - y * y), 1: (1 + x * x, x * y), 2: (-y, x)}[axis]  # of the image plane at 1
    expected = np.hypot(100 * flow[0], 104 * flow[1]).mean() * angle
    xi = torch.zeros(1, 6)
    xi[0, 3 + axis] = angle
    A = twist(1.0, 2.0, 3.0)  # no way counts
    assert float(image_turn(A, se3_exp(xi) @ A, K, HEIGHT, WIDTH)) == pytest.approx(expected, rel=0.01)
    assert float(image_turn(A, A, K, HEIGHT, WIDTH)) < 1e-4


def test_autocast_changes_nothing() -> None:
    scene, start = turning(3.0), twist(0.0, 0.0, 0.2)
    with torch.autocast("cpu", torch.bfloat16):
        found = coarse_pose(*scene[:3], start, K, 2)
    assert torch.equal(found, coarse_pose(*scene[:3], start, K, 2))


def test_a_coarse_pixel_lies_between_those_it_is_the_mean_of() -> None:
    """What is seen at the middle of 4 x 4 pixels is seen at the centre of theirs."""
    P = back_project(torch.full((1, 1, HEIGHT, WIDTH), 3.0), K)
    fine = project(P[:, :, 9:11, 13:15], K).mean((2, 3))  # around (13.5, 9.5)
    coarse = project(P[:, :, 9:11, 13:15].mean((2, 3), keepdim=True), shrunk_intrinsics(K, 4))[:, :, 0, 0]
    torch.testing.assert_close(coarse, (fine - 1.5) / 4)


@pytest.mark.parametrize("confident", [True, False])
def test_a_network_starts_from_it(monkeypatch: pytest.MonkeyPatch, confident: bool) -> None:
    images = torch.rand(2, 1, 3, 64, 96, generator=torch.Generator().manual_seed(0))
    config = replace(SMALL, height=64, width=96, coarse_steps=3, fixed_confidence=confident)
    model = random_model(config).eval()
    given: list[tuple[object, ...]] = []
    elsewhere = twist(0.0, 0.0, 0.1, degrees=3.0)

    def spy(*arguments: object) -> Tensor:
        given.append(arguments)
        return elsewhere

    monkeypatch.setattr(network, "coarse_pose", spy)
    intrinsics = torch.tensor([[60.0, 64.0, 48.0, 32.0]])
    with torch.inference_mode():
        cur, prev = (model.encode(image) for image in images)
        T_teacher = model.teacher_pose(*images)
        refinement = model.refine(cur, prev.matching, T_teacher, intrinsics, 1)
        from_there = network.solve(
            model.updater(cur, prev.matching, intrinsics),
            cur.hidden,
            model.to_depth(cur.disparity),
            elsewhere,
            1,
        )
    assert torch.equal(refinement.T_prev_cur, from_there.T_prev_cur)
    ((got_cur, got_prev, depth, guess, quarter, steps, _),) = given
    for got, frame in ((got_cur, cur), (got_prev, prev)):
        assert isinstance(got, MatchingFeatures)
        assert torch.equal(got.features, frame.matching.features)
        sure = frame.matching.confidence if confident else torch.ones_like(frame.matching.confidence)
        assert torch.equal(got.confidence, sure)
    torch.testing.assert_close((depth, guess), (model.to_depth(cur.disparity), T_teacher))
    torch.testing.assert_close(quarter, torch.tensor([[15.0, 16.0, 12.0, 8.0]]))
    assert steps == 3


@pytest.mark.parametrize(
    ("changes", "iterations"), [({"coarse_steps": 0}, 1), ({"pose_updates": False}, 1), ({}, 0)]
)
def test_a_network_that_does_not_refine_the_pose_starts_from_its_teacher(
    monkeypatch: pytest.MonkeyPatch, changes: dict[str, object], iterations: int
) -> None:
    begun: list[Tensor] = []

    def spy(update: Any, hidden: Tensor, depth: Tensor, T_prev_cur: Tensor, *rest: Any) -> Any:
        begun.append(T_prev_cur)
        return solve(update, hidden, depth, T_prev_cur, *rest)

    monkeypatch.setattr(network, "coarse_pose", lambda *_: twist(1.0, 2.0, 3.0))
    monkeypatch.setattr(network, "solve", spy)
    image, previous = torch.rand(2, 1, 3, 64, 96, generator=torch.Generator().manual_seed(0))
    model = random_model(replace(SMALL, height=64, width=96, **changes))
    with torch.inference_mode():
        prediction = model(image, previous, torch.tensor([[60.0, 60.0, 48.0, 32.0]]), iterations=iterations)
    assert all(torch.equal(T, prediction.T_prev_cur_teacher) for T in begun)
    if iterations == 0 or "pose_updates" in changes:
        assert torch.equal(prediction.T_prev_cur, prediction.T_prev_cur_teacher)
    assert len(begun) == (iterations > 0)


def test_the_papers_network_has_none() -> None:
    assert PUBLISHED.coarse_steps == 0


@pytest.mark.parametrize("steps", [-1, 1.5, float("nan")])
def test_steps_are_counted(steps: float) -> None:
    with pytest.raises(ConfigError, match="coarse_steps"):
        replace(PUBLISHED, coarse_steps=steps)
