"""Cameras and rigid motions against other ways of computing the same."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.linalg import expm
from torch.nn.functional import grid_sample

from dualrefine_ros.geometry.camera import back_project, project, rays, sampling_grid, transform
from dualrefine_ros.geometry.rigid import nearest_rigid
from dualrefine_ros.geometry.se3 import hat, inverse, se3_exp, so3_exp


@pytest.mark.parametrize("angle", [0.0, 1e-9, 1e-5, 9.9e-5, 1.01e-4, 1e-3, 0.5, 3.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_se3_exp_is_the_matrix_exponential(angle: float, dtype: torch.dtype) -> None:
    rng = np.random.default_rng(0)
    axis = rng.standard_normal(3)
    v, w = rng.standard_normal(3), angle * axis / np.linalg.norm(axis)
    generator = np.zeros((4, 4))
    generator[:3, :3] = [[0, -w[2], w[1]], [w[2], 0, -w[0]], [-w[1], w[0], 0]]
    generator[:3, 3] = v
    T = se3_exp(torch.tensor(np.concatenate((v, w)), dtype=dtype)[None])[0]
    tolerance = 3e-7 if dtype == torch.float32 else 1e-10
    np.testing.assert_allclose(T.numpy(), expm(generator), atol=4 * tolerance)
    R = so3_exp(torch.tensor(w, dtype=dtype)[None])[0]
    np.testing.assert_allclose(R.numpy(), expm(generator[:3, :3]), atol=4 * tolerance)


def test_se3_exp_has_finite_gradients_at_zero() -> None:
    xi = torch.zeros(1, 6, requires_grad=True)
    se3_exp(xi)[:, :3].sum().backward()
    assert xi.grad is not None
    assert bool(torch.isfinite(xi.grad).all())
    assert bool((xi.grad[0, :3] == 1).all())


def test_hat_is_the_cross_product() -> None:
    a, b = torch.randn(2, 5, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close((hat(a) @ b[..., None])[..., 0], torch.linalg.cross(a, b))


def test_inverse() -> None:
    T = se3_exp(torch.tensor([[1.0, 2, 3, 0.1, -0.2, 0.3]], dtype=torch.float64))
    torch.testing.assert_close(inverse(T) @ T, torch.eye(4, dtype=torch.float64)[None])


def test_projection_of_known_points() -> None:
    intrinsics = torch.tensor([[100.0, 200.0, 30.0, 40.0]])
    points = torch.tensor([[1.0, 2.0, 4.0], [0.0, 0.0, 1.0]]).T[None]
    expected = torch.tensor([[30 + 25.0, 40 + 100.0], [30.0, 40.0]]).T[None]
    torch.testing.assert_close(project(points, intrinsics), expected)


def test_inverse_depth_is_cut() -> None:
    near = torch.tensor([[[0.01], [0.01], [0.001]]])  # 1/Z = 1000
    intrinsics = torch.tensor([[1.0, 1.0, 0.0, 0.0]])
    torch.testing.assert_close(project(near, intrinsics), torch.tensor([[[1.0], [1.0]]]))


def test_back_projection_and_projection_return_the_pixels() -> None:
    intrinsics = torch.tensor([[50.0, 60.0, 9.5, 4.0], [40.0, 40.0, 0.0, 0.0]])
    depth = torch.rand(2, 1, 8, 20, generator=torch.Generator().manual_seed(0)) + 0.5
    points = back_project(depth, intrinsics)
    assert torch.equal(points[:, 2:], depth)
    assert torch.equal(rays(intrinsics, 8, 20)[:, 2], torch.ones(2, 8, 20))
    pixels = project(points, intrinsics)
    v, u = torch.meshgrid(torch.arange(8.0), torch.arange(20.0), indexing="ij")
    torch.testing.assert_close(pixels, torch.stack((u, v)).expand(2, 2, 8, 20), atol=1e-4, rtol=0)


def test_transform() -> None:
    T = torch.eye(4)[None].clone()
    T[0, :3, :3] = torch.tensor([[0.0, -1, 0], [1, 0, 0], [0, 0, 1]])  # a quarter turn about z
    T[0, :3, 3] = torch.tensor([10.0, 20, 30])
    moved = transform(T, torch.tensor([1.0, 2, 3]).view(1, 3, 1, 1))
    assert moved.flatten().tolist() == [8.0, 21.0, 33.0]


def test_sampling_grid_addresses_pixel_centres() -> None:
    """Sampling a ramp at (u, v) returns it at (u, v); outside counts as zero."""
    h, w = 5, 7
    ramp = torch.arange(h * w, dtype=torch.float32).view(1, 1, h, w)
    pixels = torch.tensor([[2.0, 3.0], [0.5, 1.0], [6.0, 4.0], [-1.0, 0.0]]).T.view(1, 2, 1, 4)
    values = grid_sample(ramp, sampling_grid(pixels, h, w), align_corners=False).flatten()
    torch.testing.assert_close(values, torch.tensor([23.0, 7.5, 34.0, 0.0]))


def test_nearest_rigid() -> None:
    T = np.eye(4)
    T[:3, :3] = expm(np.array([[0, -0.3, 0.2], [0.3, 0, -0.1], [-0.2, 0.1, 0]]))
    T[:3, 3] = [1, 2, 3]
    np.testing.assert_allclose(nearest_rigid(T), T, atol=1e-14)
    bent = T.copy()
    bent[:3, :3] += 1e-4 * np.random.default_rng(0).standard_normal((3, 3))
    R = nearest_rigid(bent)[:3, :3]
    np.testing.assert_allclose(R @ R.T, np.eye(3), atol=1e-14)
    assert np.linalg.det(R) == pytest.approx(1)
    assert np.abs(R - T[:3, :3]).max() < 5e-4
