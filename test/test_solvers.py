"""Anderson acceleration and the Gauss-Newton step on problems whose answers are known."""

from __future__ import annotations

import torch

from dualrefine_ros.geometry.camera import back_project, project, transform
from dualrefine_ros.geometry.se3 import se3_exp
from dualrefine_ros.model.anderson import anderson, extended_gram, mixed, mixing_weights
from dualrefine_ros.model.pose_alignment import (
    gauss_newton_step,
    normal_equations,
    projection_jacobian,
    solve_step,
)
from dualrefine_ros.model.sampling.plain import image_gradient

INTRINSICS = torch.tensor([[120.0, 126.0, 59.5, 35.5]], dtype=torch.float64)


def contraction(n: int = 12) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    A = torch.randn(n, n, generator=generator, dtype=torch.float64)
    A = 0.8 * A / torch.linalg.matrix_norm(A, 2)
    return A, 1000 * torch.randn(n, generator=generator, dtype=torch.float64)  # far above the ridge


def test_anderson_beats_plain_iteration_on_a_linear_map() -> None:
    A, b = contraction()
    solution = torch.linalg.solve(torch.eye(12, dtype=torch.float64) - A, b)
    plain = torch.zeros(1, 12, dtype=torch.float64)
    for _ in range(12):
        plain = plain @ A.T + b
    point = anderson(lambda x: x @ A.T + b, torch.zeros(1, 12, dtype=torch.float64), 13)
    assert (point.x - solution).norm() < 0.1 * (plain - solution).norm()
    assert len(point.residuals) == 13
    assert not point.stopped_early


def test_anderson_returns_the_input_of_the_best_evaluation() -> None:
    """The third evaluation onwards compete; here the fourth's residual is the smallest."""
    seen: list[torch.Tensor] = []
    offsets = iter([3.0, 2.0, 0.5, 0.1, 0.3, 0.7])

    def f(x: torch.Tensor) -> torch.Tensor:
        seen.append(x)
        return x + next(offsets)

    point = anderson(f, torch.zeros(2, 5), 6)
    assert torch.equal(point.x, seen[3])


def test_anderson_with_one_and_two_evaluations_returns_the_last_output() -> None:
    for evaluations in (1, 2):
        point = anderson(lambda x: 0.5 * x + 1, torch.zeros(1, 3), evaluations)
        assert point.x[0, 0] == (1.0, 1.5)[evaluations - 1]


def test_anderson_stops_at_the_tolerance() -> None:
    point = anderson(lambda x: 0.1 * x + 1, torch.zeros(1, 3), 50, tolerance=1e-3)
    assert point.stopped_early
    assert len(point.residuals) < 10
    assert float(point.residuals[-1]) < 1e-3
    torch.testing.assert_close(point.x, torch.full((1, 3), 1 / 0.9), atol=2e-3, rtol=0)


def test_mixing_weights_sum_to_one_and_survive_bad_numbers() -> None:
    residuals = torch.randn(2, 4, 9, generator=torch.Generator().manual_seed(0))
    gram = residuals @ residuals.transpose(1, 2)
    weights = mixing_weights(gram)
    torch.testing.assert_close(weights.sum(1), torch.ones(2), atol=1e-3, rtol=0)
    least = (weights[:, None] @ residuals).norm(dim=2)
    for other in torch.eye(4):
        assert bool((least <= (other @ residuals).norm(dim=1)[:, None]).all())
    gram[1, 0, 0] = torch.inf
    assert mixing_weights(gram)[1].tolist() == [0, 0, 0, 1]


def test_extended_gram_is_the_gram_matrix() -> None:
    residuals = list(torch.randn(4, 2, 9, generator=torch.Generator().manual_seed(0)))
    gram = torch.zeros(2, 0, 0)
    for count in range(1, 5):
        gram = extended_gram(gram, residuals[:count])
    stacked = torch.stack(residuals, 1)
    torch.testing.assert_close(gram, stacked @ stacked.transpose(1, 2))
    weights = torch.randn(2, 4, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(mixed(weights, residuals), (weights[:, :, None] * stacked).sum(1))


def test_projection_jacobian_is_the_derivative() -> None:
    points = torch.tensor([[0.3, -0.2, 2.0], [-1.0, 0.5, 7.0]], dtype=torch.float64)
    for point in points:
        P = point.view(1, 3, 1, 1)

        def pixel(xi: torch.Tensor, P: torch.Tensor = P) -> torch.Tensor:
            return project(transform(se3_exp(xi[None]), P), INTRINSICS).flatten()

        expected = torch.autograd.functional.jacobian(pixel, torch.zeros(6, dtype=torch.float64))
        torch.testing.assert_close(projection_jacobian(P, INTRINSICS)[0, :, :, 0, 0], expected)


def textured(u: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    """Three smooth feature channels over the image plane."""
    return torch.stack((torch.sin(u / 15) + v / 60, torch.cos(v / 12), torch.sin((u + v) / 18)), 1)


def scene() -> tuple[torch.Tensor, torch.Tensor]:
    """Previous frame's features (1, 3, 72, 120) and current depth of a slanted plane."""
    v, u = torch.meshgrid(
        torch.arange(72, dtype=torch.float64), torch.arange(120, dtype=torch.float64), indexing="ij"
    )
    return textured(u[None], v[None]), (3 + u / 120 - v / 90)[None, None]


def test_normal_equations_equal_the_sum_over_explicit_rows() -> None:
    generator = torch.Generator().manual_seed(0)
    residual, grad_u, grad_v = torch.randn(3, 2, 5, 4, 6, generator=generator, dtype=torch.float64)
    jacobian = torch.randn(2, 2, 6, 4, 6, generator=generator, dtype=torch.float64)
    weight = torch.rand(2, 1, 4, 6, generator=generator, dtype=torch.float64)
    J = -(grad_u[:, :, None] * jacobian[:, None, 0] + grad_v[:, :, None] * jacobian[:, None, 1])
    rows = J.permute(0, 1, 3, 4, 2).reshape(2, -1, 6)
    w = weight.expand(2, 5, 4, 6).reshape(2, -1, 1)
    moments = torch.stack(
        [
            (a * b).sum(1)
            for a, b in (
                (grad_u, grad_u),
                (grad_u, grad_v),
                (grad_v, grad_v),
                (grad_u, residual),
                (grad_v, residual),
                (residual, residual),
            )
        ],
        1,
    )
    H, b = normal_equations(moments, jacobian, weight)
    torch.testing.assert_close(H, rows.transpose(1, 2) @ (w * rows))
    torch.testing.assert_close(b, (rows * w * residual.reshape(2, -1, 1)).sum(1))


def test_image_gradient_is_the_derivative_of_the_texture() -> None:
    features, _ = scene()
    pixels = torch.tensor([10.0, 12.0], dtype=torch.float64).view(1, 2, 1, 1).expand(1, 2, 72, 120)
    d_u, d_v = image_gradient(features, pixels)
    at = torch.tensor([10.0], dtype=torch.float64)
    expected_u = (textured(at + 1, at + 2) - textured(at - 1, at + 2)) / 2
    expected_v = (textured(at, at + 3) - textured(at, at + 1)) / 2
    torch.testing.assert_close(d_u[0, :, 0, 0], expected_u[0])
    torch.testing.assert_close(d_v[0, :, 0, 0], expected_v[0])


def test_gauss_newton_finds_the_motion_that_made_the_image() -> None:
    features_prev, depth = scene()
    T_true = se3_exp(torch.tensor([[0.03, -0.02, 0.05, 0.004, -0.006, 0.003]], dtype=torch.float64))
    seen_at = project(transform(T_true, back_project(depth, INTRINSICS)), INTRINSICS)
    features_cur = textured(seen_at[:, 0], seen_at[:, 1])
    T = torch.eye(4, dtype=torch.float64)[None]
    inside = torch.zeros_like(depth)
    inside[:, :, 3:-3, 3:-3] = 1  # bilinear sampling knows nothing beyond the border
    for _ in range(8):
        step = gauss_newton_step(depth, T, INTRINSICS, features_cur, features_prev, inside, None)
        T = step.T_prev_cur
    assert bool(step.solved.all())
    # bilinear interpolation of the curved texture leaves a few per cent
    assert (T - T_true).abs().max() < 0.03 * (torch.eye(4) - T_true).abs().max()


def test_unsolvable_systems_leave_the_pose() -> None:
    H = torch.eye(6).repeat(4, 1, 1)
    b = torch.ones(4, 6)
    H[1] = 0
    H[2, 0, 0] = torch.nan
    b[3, 0] = torch.inf
    xi, solved = solve_step(H, b)
    assert solved.tolist() == [True, False, False, False]
    assert xi[0].tolist() == [-1] * 6
    assert not bool(xi[1:].any())
