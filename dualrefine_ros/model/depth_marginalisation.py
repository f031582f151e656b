"""Pose from pixels whose depth is not taken for exact: an addition of ours to the paper's Eq. 8.

The paper aligns the pose with the refined depth as if it were known. But the depth has been matched along
the epipolar lines of a pose that was still wrong, and has followed it: a heading that errs to the left
moves the matches of both halves of the image to one side, which looks like depth too near on one side and
too far on the other. Then pose and depth agree with each other, not with the images.

Here each pixel's log depth is a random variable of its own, of a given standard deviation about the
refined depth, and is eliminated from the normal equations (the Schur complement of bundle adjustment;
Triggs et al., Bundle Adjustment: A Modern Synthesis, 2000, Sec. 6.1; direct: Engel et al., DSO, 2017).
What moves a pixel along its epipolar line tells little of the pose then, what moves it across tells all.

Only the length of the way would be lost with it: depth of one scale is what the network is trained for,
errors of single pixels average out. So the information on the step's length comes from all pixels with
their depth as it is: :func:`with_length`.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import normalize

from dualrefine_ros.geometry.camera import inverse_depth

_NO_INFORMATION = 1e-12  # its square is still a number in float32


def depth_flow(points: Tensor, T_prev_cur: Tensor, intrinsics: Tensor) -> Tensor:
    """d(u, v)/d(log depth), (B, 2, h, w) pixels, along the epipolar lines.

    A point RP + t whose RP grows moves in the image as one whose t shrinks: ``-d(u, v)/dX t``.

    Args:
        points: ``T_prev_cur P`` (B, 3, h, w), of the current frame's points P in the previous camera.
        T_prev_cur: (B, 4, 4).
        intrinsics: (B, 4) at this map's size.
    """
    fx, fy = (c.view(-1, 1, 1) for c in intrinsics[:, :2].unbind(1))
    t_x, t_y, t_z = (c.view(-1, 1, 1) for c in T_prev_cur[:, :3, 3].unbind(1))
    inv_z = inverse_depth(points)
    x, y = points[:, 0] * inv_z, points[:, 1] * inv_z
    return torch.stack((fx * inv_z * (x * t_z - t_x), fy * inv_z * (y * t_z - t_y)), 1)


def marginalised(moments: Tensor, flow: Tensor, weight: Tensor, deviation: float, channels: int) -> Tensor:
    """Moments (B, 6, h, w) with each pixel's depth eliminated.

    Args:
        moments: see :func:`~dualrefine_ros.model.sampling.plain.alignment_moments`.
        flow: (B, 2, h, w), see :func:`depth_flow`.
        weight: (B, 1, h, w).
        deviation: standard deviation of log depth, above 0, of a pixel of weight 1; a pixel's weight divides
            the variance of its prior as that of its residuals.
        channels: residuals of a pixel.
    """
    uu, uv, vv, ue, ve, ee = moments.unbind(1)
    au, av = flow.unbind(1)
    w = weight[:, 0].detach()
    squares, rows = (w * ee.detach()).sum((1, 2)), channels * w.sum((1, 2))
    prior = squares * _inverse(rows) / deviation / deviation  # its information, in units of 1 / variance of e
    # information of depth with itself, with (u, v), and with the residual
    du, dv, de = uu * au + uv * av, uv * au + vv * av, ue * au + ve * av
    inverse = _inverse(au * du + av * dv + prior[:, None, None])
    ku, kv, ke = du * inverse, dv * inverse, de * inverse
    return torch.stack(
        (uu - ku * du, uv - ku * dv, vv - kv * dv, ue - ku * de, ve - kv * de, ee - ke * de), 1
    )


def with_length(
    H: Tensor, b: Tensor, moments: Tensor, jacobian: Tensor, weight: Tensor, T_prev_cur: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Marginal normal equations that know of the way's length what those with depth as it is know.

    Along the direction d of the translation the marginal equations' rank-one part ``H d (d^T H d)^-1 d^T H``
    gives way to that of the full ones. Without uncertainty the step is the full equations' own.

    Args:
        H, b: (B, 6, 6), (B, 6), with the depth eliminated.
        moments: (B, 6, h, w), with depth as it is.
        jacobian: dp/dxi, (B, 2, 6, h, w).
        weight: (B, 1, h, w).
        T_prev_cur: (B, 4, 4).

    Returns:
        H (B, 6, 6), b (B, 6), and the change (B,) in weighted squares of residuals that comes with them.
    """
    direction = normalize(T_prev_cur[:, :3, 3], dim=1)
    uu, uv, vv, ue, ve, _ = (moments * weight).unbind(1)
    u, v = (jacobian[:, :, :3] * direction[:, None, :, None, None]).sum(2).unbind(1)  # dp/dxi d
    left = torch.stack((uu * u + uv * v, uv * u + vv * v), 1)[:, :, None]
    full_H_d, full_b_d = (left * jacobian).sum((1, 3, 4)), -(ue * u + ve * v).sum((1, 2))
    H_d, b_d = (H[:, :, :3] @ direction[:, :, None])[:, :, 0], (b[:, :3] * direction).sum(1)
    squares = torch.zeros_like(b_d)
    for sign, along, gradient in ((-1, H_d, b_d), (1, full_H_d, full_b_d)):
        inverse = sign * _inverse((along[:, :3] * direction).sum(1))
        H = H + along[:, :, None] * (along * inverse[:, None])[:, None, :]
        b = b + along * (gradient * inverse)[:, None]
        squares = squares + gradient * gradient * inverse
    return H, b, squares


def _inverse(information: Tensor) -> Tensor:
    """1/x, with its gradient; 0 where there is no information worth the name."""
    some = information > _NO_INFORMATION
    return torch.where(some, 1.0 / torch.where(some, information, 1.0), 0.0)
