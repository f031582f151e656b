"""One Gauss-Newton step of feature-metric direct alignment (paper, Sec. 3.2.2, Eq. 8)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from dualrefine_ros.geometry.camera import back_project, inverse_depth, project, transform
from dualrefine_ros.geometry.se3 import se3_exp
from dualrefine_ros.model.depth_marginalisation import depth_flow, marginalised, with_length
from dualrefine_ros.model.precision import full_precision
from dualrefine_ros.model.sampling import plain


@dataclass(frozen=True)
class AlignmentSystem:
    """The normal equations ``H xi = -b`` of one step.

    Where depth is uncertain, sums are of what is left of J and e after its elimination.

    Args:
        H: (B, 6, 6), ``sum w J^T J``.
        b: (B, 6), ``sum w J^T e``.
        weight: (B, 1, h, w), what each pixel counted.
        squares: (B,), ``sum w e^2``.
    """

    H: Tensor
    b: Tensor
    weight: Tensor
    squares: Tensor


@dataclass(frozen=True)
class PoseStep:
    """Result of one step.

    Args:
        T_prev_cur: (B, 4, 4), the new pose; the old one where the system could not be solved.
        xi: (B, 6), the step: translation, rotation; zero where it could not be solved.
        solved: (B,) bool.
        weight: (B, 1, h, w), what each pixel counted.
        H: (B, 6, 6), the normal matrix.
        residual_variance: (B,), see :func:`residual_variance`.
    """

    T_prev_cur: Tensor
    xi: Tensor
    solved: Tensor
    weight: Tensor
    H: Tensor
    residual_variance: Tensor


def projection_jacobian(points: Tensor, intrinsics: Tensor) -> Tensor:
    """d(u, v)/d(xi) for a left perturbation ``exp(xi) P``: (B, 2, 6, h, w) from points (B, 3, h, w)."""
    fx, fy, _, _ = (c.view(-1, 1, 1) for c in intrinsics.unbind(1))
    inv_z = inverse_depth(points)
    x, y = points[:, 0] * inv_z, points[:, 1] * inv_z
    zero = torch.zeros_like(x)
    du = (fx * inv_z, zero, -fx * x * inv_z, -fx * x * y, fx * (1 + x * x), -fx * y)
    dv = (zero, fy * inv_z, -fy * y * inv_z, -fy * (1 + y * y), fy * x * y, fy * x)
    return torch.stack((torch.stack(du, 1), torch.stack(dv, 1)), 1)


def normal_equations(moments: Tensor, jacobian: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """``sum w J^T J`` (B, 6, 6) and ``sum w J^T e`` (B, 6) with ``J = -grad dp/dxi``.

    The channels are summed already, so that J itself (64 x h x w rows) never exists.

    Args:
        moments: (B, 6, h, w), see :func:`~dualrefine_ros.model.sampling.plain.alignment_moments`.
        jacobian: dp/dxi, (B, 2, 6, h, w).
        weight: (B, 1, h, w).
    """
    uu, uv, vv, ue, ve, _ = (moments * weight)[:, :, None].unbind(1)  # (B, 1, h, w)
    Ju, Jv = jacobian.unbind(1)  # (B, 6, h, w)
    left = torch.stack((uu * Ju + uv * Jv, uv * Ju + vv * Jv), 1)
    H = left.transpose(1, 2).flatten(2) @ jacobian.transpose(1, 2).flatten(2).transpose(1, 2)
    return H, -(ue * Ju + ve * Jv).sum((2, 3))


def solve_step(H: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """``-H^-1 b`` (B, n) by Cholesky in float64, and whether it could be solved (B,); zero where not."""
    H64, b64 = H.double(), b.double()
    usable = torch.isfinite(H64).all((1, 2)) & torch.isfinite(b64).all(1)
    identity = torch.eye(H.shape[-1], device=H.device, dtype=H64.dtype)
    H64 = torch.where(usable[:, None, None], H64, identity)
    b64 = torch.where(usable[:, None], b64, torch.zeros_like(b64))
    factor, info = torch.linalg.cholesky_ex(H64)
    usable = usable & (info == 0)
    factor = torch.where(usable[:, None, None], factor, identity)
    xi = -torch.cholesky_solve(b64[:, :, None], factor)[:, :, 0].to(H.dtype)
    solved = usable & torch.isfinite(xi).all(1)
    return torch.where(solved[:, None], xi, torch.zeros_like(xi)), solved


def residual_variance(squares: Tensor, weight: Tensor, gain: Tensor, channels: int) -> Tensor:
    """Variance (B,) of a residual of weight 1 after the step, so that ``variance * H^-1`` is that of xi.

    The weighted squares that the step leaves, over the degrees of freedom. Weights only compare pixels,
    so what counts as their number is Kish's effective sample size ``(sum w)^2 / sum w^2``: no factor in
    the weights changes the covariance of xi.

    Args:
        squares: (B,), weighted squares of the residuals before the step.
        weight: (B, 1, h, w).
        gain: (B,), what the step takes from the weighted squares: ``-xi . b``.
        channels: residuals of a pixel (of whose freedom an eliminated depth takes one, which is not counted).
    """
    w = weight.flatten(1)
    rows = channels * w.sum(1) ** 2 / (w * w).sum(1)
    return (squares - gain).clamp(min=0) / (rows - 6).clamp(min=1)


@full_precision
def alignment_system(
    depth: Tensor,
    T_prev_cur: Tensor,
    intrinsics: Tensor,
    match_cur: Tensor,
    match_prev: Tensor,
    confidence_cur: Tensor | None,
    confidence_prev: Tensor | None,
    alignment_moments: Callable[[Tensor, Tensor, Tensor], Tensor] = plain.alignment_moments,
    depth_deviation: float = 0.0,
) -> AlignmentSystem:
    """What a step has to solve, see :func:`gauss_newton_step`."""
    h, w = depth.shape[-2:]
    points = transform(T_prev_cur, back_project(depth, intrinsics))
    pixels = project(points, intrinsics)
    weight = torch.ones_like(depth)
    if confidence_cur is not None:
        weight = weight * confidence_cur
    if confidence_prev is not None:
        weight = weight * plain.sample(confidence_prev, pixels, h, w)
    moments = alignment_moments(match_cur, match_prev, pixels)
    jacobian = projection_jacobian(points, intrinsics)
    if depth_deviation == 0:
        H, b = normal_equations(moments, jacobian, weight)
        return AlignmentSystem(H, b, weight, (weight * moments[:, 5:]).sum((1, 2, 3)))
    flow = depth_flow(points, T_prev_cur, intrinsics)
    free = marginalised(moments, flow, weight, depth_deviation, match_cur.shape[1])
    H, b = normal_equations(free, jacobian, weight)
    H, b, squares = with_length(H, b, moments, jacobian, weight, T_prev_cur)
    return AlignmentSystem(H, b, weight, (weight * free[:, 5:]).sum((1, 2, 3)) + squares)


@full_precision
def solve_alignment(system: AlignmentSystem, T_prev_cur: Tensor, channels: int) -> PoseStep:
    """The step from T_prev_cur (B, 4, 4) that a system asks for; ``channels``: residuals of a pixel."""
    H, b, weight = system.H, system.b, system.weight
    xi, solved = solve_step(H, b)
    variance = residual_variance(system.squares, weight, -(xi * b).sum(1), channels)
    return PoseStep(se3_exp(xi) @ T_prev_cur, xi, solved, weight, H, variance)


def gauss_newton_step(
    depth: Tensor,
    T_prev_cur: Tensor,
    intrinsics: Tensor,
    match_cur: Tensor,
    match_prev: Tensor,
    confidence_cur: Tensor | None,
    confidence_prev: Tensor | None,
    alignment_moments: Callable[[Tensor, Tensor, Tensor], Tensor] = plain.alignment_moments,
    depth_deviation: float = 0.0,
) -> PoseStep:
    """Move the pose to where the previous frame's features explain the current frame's.

    Args:
        depth: (B, 1, h, w) metres, of the current frame.
        T_prev_cur: (B, 4, 4).
        intrinsics: (B, 4) at this map's size.
        match_cur, match_prev: (B, C, h, w).
        confidence_cur: (B, 1, h, w) weight of the current frame's pixels; None counts as 1.
        confidence_prev: (B, 1, h, w) weight of the previous frame's pixels; None counts as 1.
        alignment_moments: the sampler's.
        depth_deviation: standard deviation of each pixel's log depth; 0 takes the depth for exact, as the
            paper does (see :mod:`~dualrefine_ros.model.depth_marginalisation`).
    """
    system = alignment_system(
        depth,
        T_prev_cur,
        intrinsics,
        match_cur,
        match_prev,
        confidence_cur,
        confidence_prev,
        alignment_moments,
        depth_deviation,
    )
    return solve_alignment(system, T_prev_cur, match_cur.shape[1])
