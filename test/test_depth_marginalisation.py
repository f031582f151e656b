"""The pose step with uncertain depth: against elimination written out, and in scenes that have an answer."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor
from torch.autograd import gradcheck

from dualrefine_ros.errors import ConfigError
from dualrefine_ros.geometry.camera import back_project, project, transform
from dualrefine_ros.geometry.se3 import se3_exp
from dualrefine_ros.model import PUBLISHED, SMALL, random_model
from dualrefine_ros.model.depth_marginalisation import depth_flow, marginalised
from dualrefine_ros.model.pose_alignment import (
    PoseStep,
    alignment_system,
    gauss_newton_step,
    normal_equations,
    projection_jacobian,
)

K = torch.tensor([[120.0, 126.0, 59.5, 35.5]], dtype=torch.float64)
FORWARD = torch.tensor([[0.03, -0.01, 0.25, 0.002, -0.004, 0.001]], dtype=torch.float64)


def textured(u: Tensor, v: Tensor) -> Tensor:
    """Features (B, 4, h, w) of a smooth texture without a preferred direction."""
    waves = (torch.sin(u / 9 + v / 17), torch.cos(v / 10), torch.sin((u + v) / 13), torch.cos((u - v) / 12))
    return torch.stack(waves, 1)


def scene() -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Depth, true T_prev_cur, features of both frames, and a weight that leaves out the border."""
    v, u = torch.meshgrid(torch.arange(72.0).double(), torch.arange(120.0).double(), indexing="ij")
    depth = (3 + torch.sin(u / 30) - v / 60)[None, None]
    T = se3_exp(FORWARD)
    pixels = project(transform(T, back_project(depth, K)), K)
    inside = torch.zeros_like(depth)
    inside[:, :, 12:-12, 12:-12] = 1
    return depth, T, textured(pixels[:, 0], pixels[:, 1]), textured(u[None], v[None]), inside


def aligned(depth: Tensor, start: Tensor, deviation: float) -> tuple[Tensor, PoseStep]:
    """The pose that ten steps from a start lead to."""
    _, _, cur, prev, inside = scene()
    T = start
    for _ in range(10):
        step = gauss_newton_step(depth, T, K, cur, prev, inside, None, depth_deviation=deviation)
        T = step.T_prev_cur
    return T, step


def angle_between(A: Tensor, B: Tensor) -> float:
    """Degrees between the rotations of two poses (1, 4, 4)."""
    R = A[0, :3, :3].T @ B[0, :3, :3]
    return math.degrees(math.acos(min(1.0, (float(R.trace()) - 1) / 2)))


def test_flow_is_the_derivative_by_log_depth() -> None:
    depth, T, *_ = scene()

    def pixels(log_depth: Tensor) -> Tensor:
        return project(transform(T, back_project(log_depth.exp(), K)), K)

    flow = depth_flow(transform(T, back_project(depth, K)), T, K)
    _, expected = torch.func.jvp(pixels, (depth.log(),), (torch.ones_like(depth),))
    torch.testing.assert_close(flow, expected)


def test_normal_equations_equal_elimination_written_out() -> None:
    """Every pixel's log depth an unknown of its own, with a row for its prior; then the Schur complement."""
    generator = torch.Generator().manual_seed(0)
    C, h, w, deviation = 5, 3, 4, 0.7
    N = h * w
    gradient = torch.randn(2, C, N, generator=generator, dtype=torch.float64)
    e = torch.randn(C, N, generator=generator, dtype=torch.float64)
    jacobian = torch.randn(2, 6, N, generator=generator, dtype=torch.float64)
    flow = torch.randn(2, N, generator=generator, dtype=torch.float64)
    weight = torch.rand(N, generator=generator, dtype=torch.float64)
    variance = (weight * e**2).sum() / (C * weight.sum())

    unknowns, residuals, weights = [], [], []
    for n in range(N):
        for c in range(C):
            row = torch.zeros(6 + N, dtype=torch.float64)
            row[:6] = -gradient[:, c, n] @ jacobian[:, :, n]
            row[6 + n] = -gradient[:, c, n] @ flow[:, n]
            unknowns.append(row)
            residuals.append(e[c, n])
            weights.append(weight[n])
        prior = torch.zeros(6 + N, dtype=torch.float64)
        prior[6 + n] = variance.sqrt() / deviation
        unknowns.append(prior)
        residuals.append(torch.zeros((), dtype=torch.float64))
        weights.append(weight[n])
    J, r, W = torch.stack(unknowns), torch.stack(residuals), torch.stack(weights)[:, None]
    A, g = J.T @ (W * J), J.T @ (W[:, 0] * r)
    elimination = A[:6, 6:] @ torch.linalg.inv(A[6:, 6:])
    H_expected, b_expected = A[:6, :6] - elimination @ A[6:, :6], g[:6] - elimination @ g[6:]
    left_over = (W[:, 0] * r**2).sum() - g[6:] @ torch.linalg.solve(A[6:, 6:], g[6:])

    (gu, gv) = gradient
    products = (gu * gu, gu * gv, gv * gv, gu * e, gv * e, e * e)
    moments = torch.stack([p.sum(0) for p in products]).view(1, 6, h, w)
    maps = weight.view(1, 1, h, w)
    reduced = marginalised(moments, flow.view(1, 2, h, w), maps, deviation, C)
    H, b = normal_equations(reduced, jacobian.view(1, 2, 6, h, w), maps)
    torch.testing.assert_close(H[0], H_expected)
    torch.testing.assert_close(b[0], b_expected)
    torch.testing.assert_close((maps * reduced[:, 5:]).sum(), left_over)


def test_a_small_deviation_is_the_papers_step() -> None:
    depth, _, cur, prev, inside = scene()
    start = se3_exp(FORWARD + 0.002)
    paper = gauss_newton_step(depth, start, K, cur, prev, inside, None)
    ours = gauss_newton_step(depth, start, K, cur, prev, inside, None, depth_deviation=1e-5)
    torch.testing.assert_close(ours.xi, paper.xi, rtol=1e-5, atol=0)
    torch.testing.assert_close(ours.H, paper.H, rtol=1e-5, atol=0)
    torch.testing.assert_close(ours.residual_variance, paper.residual_variance, rtol=1e-5, atol=0)


def test_right_depth_gives_the_right_pose() -> None:
    depth, T, *_ = scene()
    start = se3_exp(FORWARD * torch.tensor([1.2, 1.2, 1.2, 0.5, 0.5, 0.5]))
    found, step = aligned(depth, start, 1.0)
    assert bool(step.solved.all())
    assert angle_between(found, T) < 0.01
    assert float((found - T)[0, :3, 3].norm() / T[0, :3, 3].norm()) < 0.01


def test_depth_that_errs_left_and_right_does_not_turn_the_camera() -> None:
    """Depth that has followed a wrong heading: too near on the left, too far on the right."""
    depth, T, *_ = scene()
    skewed = depth * torch.linspace(-0.2, 0.2, 120).double().exp()
    paper, ours = (angle_between(aligned(skewed, T, deviation)[0], T) for deviation in (0.0, 1.0))
    assert paper > 0.2
    assert ours < 0.25 * paper


@pytest.mark.parametrize("scale", [0.8, 1.25])
def test_the_length_of_the_way_follows_the_depth(scale: float) -> None:
    depth, T, *_ = scene()
    found, _ = aligned(scale * depth, T, 1.0)
    assert float(found[0, :3, 3].norm() / T[0, :3, 3].norm()) == pytest.approx(scale, rel=0.01)
    assert angle_between(found, T) < 0.01


@pytest.mark.parametrize("deviation", [0.1, 10.0])
def test_length_is_what_the_full_equations_know_of_it(deviation: float) -> None:
    depth, T, cur, prev, inside = scene()
    full = alignment_system(depth, T, K, cur, prev, inside, None)
    ours = alignment_system(depth, T, K, cur, prev, inside, None, depth_deviation=deviation)
    d = torch.cat((T[:, :3, 3], torch.zeros(1, 3, dtype=torch.float64)), 1)[0]
    d = d / d.norm()
    torch.testing.assert_close(ours.H[0] @ d, full.H[0] @ d)
    torch.testing.assert_close(d @ ours.b[0], d @ full.b[0])
    assert float(torch.linalg.eigvalsh(full.H[0] - ours.H[0]).min()) > -1e-9 * float(full.H[0].trace())


def test_a_camera_that_stands_sees_no_flow_in_float32() -> None:
    depth, _, cur, *_ = scene()
    still = torch.eye(4)[None]
    assert not depth_flow(back_project(depth.float(), K.float()), still, K.float()).any()
    inside = torch.ones_like(depth).float()
    args = (depth.float(), still, K.float(), cur.float(), cur.float(), inside, None)
    torch.testing.assert_close(alignment_system(*args, depth_deviation=10.0).H, alignment_system(*args).H)


@pytest.mark.parametrize("case", ["still", "same image", "no weight", "no texture"])
def test_where_depth_says_nothing(case: str) -> None:
    depth, T, cur, prev, inside = scene()
    if case == "still":
        T = torch.eye(4, dtype=torch.float64)[None]
    if case == "same image":
        T, cur = torch.eye(4, dtype=torch.float64)[None], prev
    if case == "no weight":
        inside = torch.zeros_like(inside)
    if case == "no texture":
        cur, prev = torch.zeros_like(cur), torch.zeros_like(prev)
    args = [t.float().requires_grad_() for t in (depth, cur, prev, inside)]
    step = gauss_newton_step(
        args[0], T.float(), K.float(), args[1], args[2], args[3], None, depth_deviation=1.0
    )
    solvable = case in ("still", "same image")
    assert bool(step.solved.all()) == solvable
    assert bool(torch.isfinite(step.T_prev_cur).all())
    if solvable:  # training leaves out a step whose pose could not be solved
        step.T_prev_cur.sum().backward()
        assert all(bool(torch.isfinite(a.grad).all()) for a in args if a.grad is not None)


def test_the_gradient_through_a_step() -> None:
    generator = torch.Generator().manual_seed(0)
    cur, prev = torch.randn(2, 1, 3, 6, 8, generator=generator, dtype=torch.float64)
    depth = 2 + torch.rand(1, 1, 6, 8, generator=generator, dtype=torch.float64)
    weight = 0.5 + torch.rand(1, 1, 6, 8, generator=generator, dtype=torch.float64)
    small_K = torch.tensor([[7.0, 7.0, 3.6, 2.4]], dtype=torch.float64)
    points = transform(se3_exp(FORWARD), back_project(depth, small_K))
    jacobian = projection_jacobian(points, small_K)
    flow = depth_flow(points, se3_exp(FORWARD), small_K)

    def equations(*moments: Tensor) -> tuple[Tensor, Tensor]:
        """Without the prior's variance, which is taken for a constant."""
        m = torch.stack((*moments, torch.ones_like(moments[0])), 1)
        return normal_equations(marginalised(m, flow, weight, 1.0, 3), jacobian, weight)

    g_u, g_v, e = torch.randn(3, 3, 1, 6, 8, generator=generator, dtype=torch.float64)
    inputs = [
        (a * b).sum(0).requires_grad_() for a, b in ((g_u, g_u), (g_u, g_v), (g_v, g_v), (g_u, e), (g_v, e))
    ]
    assert gradcheck(equations, inputs)
    inputs = [t.requires_grad_() for t in (depth, cur, prev, weight)]
    xi = gauss_newton_step(
        inputs[0], se3_exp(FORWARD), small_K, inputs[1], inputs[2], inputs[3], None, depth_deviation=1.0
    ).xi
    gradients = torch.autograd.grad(xi.square().sum(), inputs)
    assert all(bool(g.abs().max() > 0) for g in gradients)


def test_a_network_refines_by_its_own_deviation() -> None:
    torch.manual_seed(0)
    image, previous = torch.rand(2, 1, 3, 64, 96)
    intrinsics = torch.tensor([[60.0, 60.0, 48.0, 32.0]])
    poses = {}
    for deviation in (0.0, 1.0):
        model = random_model(replace(SMALL, height=64, width=96, depth_deviation=deviation))
        with torch.inference_mode():
            poses[deviation] = model(image, previous, intrinsics, iterations=2).T_prev_cur
    assert not torch.allclose(poses[0.0], poses[1.0])


def test_the_papers_network_takes_depth_for_exact() -> None:
    assert PUBLISHED.depth_deviation == 0
    for wrong in (-1.0, math.nan, math.inf):
        with pytest.raises(ConfigError, match="depth_deviation"):
            replace(PUBLISHED, depth_deviation=wrong)
