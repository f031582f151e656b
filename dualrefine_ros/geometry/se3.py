"""Rigid motions, in PyTorch. A twist xi is (B, 6): translation, then rotation (Murray, Li, Sastry, ch. 2)."""

from __future__ import annotations

import torch
from torch import Tensor

_SMALL_ANGLE = 1e-4  # below it, the series is exact in float32


def hat(w: Tensor) -> Tensor:
    """The (B, 3, 3) matrix of the cross product with w (B, 3)."""
    zero = torch.zeros_like(w[:, 0])
    x, y, z = w.unbind(1)
    return torch.stack((zero, -z, y, z, zero, -x, -y, x, zero), 1).view(-1, 3, 3)


def _coefficients(w: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """sin(t)/t, (1 - cos t)/t^2 and (t - sin t)/t^3 for t = |w|, each (B, 1, 1); smooth at 0."""
    t2 = (w * w).sum(1)[:, None, None]
    small = t2 < _SMALL_ANGLE**2
    t2_safe = torch.where(small, torch.ones_like(t2), t2)
    t = t2_safe.sqrt()
    half_sine = torch.sin(t / 2)
    a = torch.where(small, 1 - t2 / 6, torch.sin(t) / t)
    b = torch.where(small, 0.5 - t2 / 24, 2 * half_sine * half_sine / t2_safe)
    c = torch.where(small, 1 / 6 - t2 / 120, (t - torch.sin(t)) / (t2_safe * t))
    return a, b, c


def so3_exp(w: Tensor) -> Tensor:
    """Axis-angle (B, 3) in radians to rotation matrices (B, 3, 3): Rodrigues' formula."""
    a, b, _ = _coefficients(w)
    W = hat(w)
    return torch.eye(3, device=w.device, dtype=w.dtype) + a * W + b * (W @ W)


def se3_exp(xi: Tensor) -> Tensor:
    """Twist (B, 6) to transforms (B, 4, 4)."""
    v, w = xi[:, :3], xi[:, 3:]
    a, b, c = _coefficients(w)
    W = hat(w)
    W2 = W @ W
    identity = torch.eye(3, device=xi.device, dtype=xi.dtype)
    return from_rotation_translation(identity + a * W + b * W2, (identity + b * W + c * W2) @ v[..., None])


def from_rotation_translation(R: Tensor, t: Tensor) -> Tensor:
    """(B, 3, 3) and (B, 3, 1) to (B, 4, 4)."""
    bottom = R.new_tensor((0.0, 0.0, 0.0, 1.0)).expand(R.shape[0], 1, 4)
    return torch.cat((torch.cat((R, t), 2), bottom), 1)


def inverse(T: Tensor) -> Tensor:
    """The inverse of rigid transforms (B, 4, 4)."""
    R_t = T[:, :3, :3].transpose(1, 2)
    return from_rotation_translation(R_t, -R_t @ T[:, :3, 3:])
