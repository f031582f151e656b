"""Covariances against Monte Carlo: errors are drawn, and what is predicted of them is counted."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dualrefine_ros.covariance import (
    CovarianceConfig,
    adjoint,
    alignment_covariance,
    chained,
    motion_covariance,
    moved,
    pose_message_covariance,
    scale_covariance,
    scaled,
    still_covariance,
    twist_covariance,
    unseen_covariance,
)
from dualrefine_ros.errors import ConfigError
from dualrefine_ros.geometry.camera import back_project, project, transform
from dualrefine_ros.geometry.se3 import se3_exp
from dualrefine_ros.memory import UncertainPose
from dualrefine_ros.model.pose_alignment import gauss_newton_step

RNG_SEED = 3
SPREAD = np.array([0.02, 0.01, 0.05, 0.004, 0.01, 0.002])  # of the errors that are drawn
Matrix = np.ndarray


def exp(xi: Matrix) -> Matrix:
    return se3_exp(torch.from_numpy(np.atleast_2d(xi))).numpy()


def small_log(T: Matrix) -> Matrix:
    """The twists (N, 6) of motions (N, 4, 4) close to the identity, to second order."""
    R, t = T[:, :3, :3], T[:, :3, 3]
    w = np.stack((R[:, 2, 1] - R[:, 1, 2], R[:, 0, 2] - R[:, 2, 0], R[:, 1, 0] - R[:, 0, 1]), 1) / 2
    return np.concatenate((t - np.cross(w, t) / 2, w), 1)


def a_covariance(seed: int = 0, size: Matrix = SPREAD) -> Matrix:
    A = np.random.default_rng(seed).normal(size=(6, 6))
    correlation = A @ A.T + np.eye(6)
    d = np.sqrt(np.diag(correlation))
    return correlation / np.outer(d, d) * np.outer(size, size)


def draw(covariance: Matrix, count: int, seed: int = RNG_SEED) -> Matrix:
    return np.random.default_rng(seed).multivariate_normal(np.zeros(6), covariance, count)


def assert_same_distribution(samples: Matrix, covariance: Matrix, tolerance: float = 0.06) -> None:
    """The whitened sample covariance is the identity."""
    whiten = np.linalg.inv(np.linalg.cholesky(covariance))
    white = whiten @ np.cov(samples.T) @ whiten.T
    np.testing.assert_allclose(white, np.eye(6), atol=tolerance)


def a_pose() -> Matrix:
    return exp(np.array([4.0, -2.0, 7.0, 0.3, -1.2, 0.5]))[0]


def test_the_adjoint_moves_twists() -> None:
    T, xi = a_pose(), np.array([0.1, -0.3, 0.2, 0.4, 0.1, -0.2])
    np.testing.assert_allclose(T @ exp(xi)[0] @ np.linalg.inv(T), exp(adjoint(T) @ xi)[0], atol=1e-12)


def test_chain() -> None:
    """Thirty steps along a bend, each wrong by its own amount."""
    steps, N = 30, 6000
    T_step = exp(np.array([0.05, -0.01, 1.0, 0.002, 0.05, 0.001]))[0]
    C_step = a_covariance(1, SPREAD / 10)
    pose = UncertainPose()
    T_true = np.tile(np.eye(4), (N, 1, 1))
    sizes = []
    for i in range(steps):
        T_true = T_true @ exp(draw(C_step, N, seed=i)) @ T_step
        pose = pose.after(T_step, C_step)
        sizes.append(np.linalg.eigvalsh(pose.covariance))
    assert_same_distribution(small_log(T_true @ np.linalg.inv(pose.T_world_cam)), pose.covariance)
    assert (np.diff(sizes, axis=0) > 0).all()  # it grows in every direction


@pytest.mark.parametrize("correlation", [0.0, 0.5, 0.8])
def test_errors_that_resemble_each_other_add_up_faster(correlation: float) -> None:
    """Many long drives whose errors are correlated from step to step, by simulation."""
    steps, N = 400, 4000
    random = np.random.default_rng(0)
    error, total = random.normal(size=N), np.zeros(N)
    for _ in range(steps):
        total += error
        error = correlation * error + np.sqrt(1 - correlation**2) * random.normal(size=N)
    factor = CovarianceConfig(step_correlation=correlation).chain_factor
    assert total.var() / steps == pytest.approx(factor, rel=0.08)


def test_a_common_error_of_the_scale_grows_with_the_way_and_not_with_its_root() -> None:
    """A quarter of the scales is off by 5 %: every step alike."""
    steps, N = 20, 20000
    T_step = exp(np.array([0.0, 0.0, 1.0, 0.0, 0.1, 0.0]))[0]
    factors = 1 + 0.05 * np.random.default_rng(0).normal(size=N)
    ends = np.zeros((N, 3))
    R, pose = np.eye(3), UncertainPose()
    for _ in range(steps):
        ends += factors[:, None] * (R @ T_step[:3, 3])
        R = R @ T_step[:3, :3]
        pose = pose.after(T_step, np.zeros((6, 6)))
    expected = np.cov((ends - pose.T_world_cam[:3, 3]).T)
    np.testing.assert_allclose(pose.reported_covariance(0.05)[:3, :3], expected, atol=0.02 * expected.max())


def test_to_the_base_and_to_a_message() -> None:
    """Samples of a camera's pose, carried to the base, are distributed as the message's covariance says."""
    N = 20000
    T_base_cam = exp(np.array([0.5, 0.2, 1.1, -1.2, 0.6, -1.0]))[0]
    T_world_cam, C = a_pose(), a_covariance(2)
    T_odom_base = T_base_cam @ T_world_cam @ np.linalg.inv(T_base_cam)
    samples = T_base_cam @ exp(draw(C, N)) @ T_world_cam @ np.linalg.inv(T_base_cam)
    position = samples[:, :3, 3] - T_odom_base[:3, 3]
    turned = np.tile(np.eye(4), (N, 1, 1))
    turned[:, :3, :3] = samples[:, :3, :3] @ T_odom_base[:3, :3].T  # fixed axes: those of odom
    rotation = small_log(turned)[:, 3:]
    predicted = pose_message_covariance(moved(C, T_base_cam), T_odom_base)
    assert_same_distribution(np.concatenate((position, rotation), 1), predicted)


def test_twist() -> None:
    C, seconds, xi = a_covariance(4, SPREAD / 10), 0.2, np.array([0.0, 0.01, 0.1, 0.001, 0.02, 0.0])
    samples = small_log(exp(draw(C, 20000)) @ exp(xi)) / seconds
    assert_same_distribution(samples, twist_covariance(C, seconds))


def test_scaled_lengths() -> None:
    C = a_covariance(5)
    samples = exp(draw(C, 20000)) @ a_pose()
    samples[:, :3, 3] *= 2.5
    mean = a_pose()
    mean[:3, 3] *= 2.5
    assert_same_distribution(small_log(samples @ np.linalg.inv(mean)), scaled(C, 2.5))


def alignment_scene() -> tuple[torch.Tensor, ...]:
    """A slanted plane, smooth features of it in the previous frame, and what the current frame sees."""
    K = torch.tensor([[120.0, 126.0, 59.5, 35.5]], dtype=torch.float64)
    v, u = torch.meshgrid(torch.arange(72.0), torch.arange(120.0), indexing="ij")
    u, v = u.double(), v.double()

    def texture(u: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        return torch.stack((torch.sin(u / 8) + v / 40, torch.cos(v / 7), torch.sin((u + v) / 10)), 1)

    depth = (3 + u / 120 - v / 90)[None, None]
    T = se3_exp(torch.tensor([[0.03, -0.02, 0.05, 0.004, -0.006, 0.003]], dtype=torch.float64))
    pixels = project(transform(T, back_project(depth, K)), K)
    return K, depth, T, texture(u[None], v[None]), texture(pixels[:, 0], pixels[:, 1])


@pytest.mark.parametrize("deviation", [0.0, 10.0])
@pytest.mark.parametrize("weights", ["inside", "some", "graded"])
def test_alignment_by_monte_carlo(weights: str, deviation: float) -> None:
    """Noise of unknown size on the current features: the step from the true pose is the error."""
    K, depth, T, *features = alignment_scene()
    # an eliminated depth takes one of a pixel's degrees of freedom, which nobody counts: few of many channels
    features_prev, features_cur = (f.repeat(1, 8, 1, 1) for f in features)
    generator = torch.Generator().manual_seed(0)
    weight = torch.zeros_like(depth)
    weight[:, :, 4:-4, 4:-4] = 1
    if weights == "some":
        weight *= torch.rand(depth.shape, generator=generator) < 0.1
    if weights == "graded":
        weight *= 7 * torch.rand(depth.shape, generator=generator) ** 2
    # without noise a step is left by the bilinear sampling of curved texture; it is not the noise's
    options = {"depth_deviation": deviation}
    bias = gauss_newton_step(depth, T, K, features_cur, features_prev, weight, None, **options).xi
    errors, covariances, N, batch = [], [], 200, 5
    for _ in range(N // batch):
        noise = torch.randn(batch, *features_cur.shape[1:], generator=generator, dtype=torch.float64)
        same = (t.expand(batch, *t.shape[1:]) for t in (depth, T, K))
        prev, w = features_prev.expand_as(noise), weight.expand(batch, *weight.shape[1:])
        step = gauss_newton_step(*same, features_cur + 0.3 * noise, prev, w, None, **options)
        errors += list((step.xi - bias).numpy())
        for H, variance in zip(step.H.numpy(), step.residual_variance.tolist(), strict=True):
            covariances.append(alignment_covariance(H, variance, factor=1.0))
    normalised = [e @ np.linalg.solve(C, e) for e, C in zip(errors, covariances, strict=True)]
    # chi-squared with 6 degrees: mean 6, deviation sqrt(12 / N)
    assert np.mean(normalised) == pytest.approx(6, abs=4 * np.sqrt(12 / N))
    whiten = np.linalg.inv(np.linalg.cholesky(np.mean(covariances, 0)))
    spread = np.linalg.eigvalsh(whiten @ np.cov(np.array(errors).T) @ whiten.T)
    np.testing.assert_allclose(spread, 1, atol=0.5)


def test_weights_have_no_unit() -> None:
    K, depth, T, features_prev, features_cur = alignment_scene()
    noisy = features_cur + torch.randn(features_cur.shape, generator=torch.Generator().manual_seed(0))
    weight = torch.rand(depth.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    covariances = []
    for factor in (1.0, 1e-3):
        step = gauss_newton_step(depth, T, K, noisy, features_prev, factor * weight, None)
        covariances.append(alignment_covariance(step.H[0].numpy(), float(step.residual_variance), 1.0))
    np.testing.assert_allclose(covariances[1], covariances[0], rtol=1e-9)


def test_alignment_without_an_answer() -> None:
    singular = np.diag([1.0, 1, 1, 1, 1, 0])
    bad = np.eye(6)
    bad[2, 3] = np.nan
    for H, variance in ((singular, 1.0), (bad, 1.0), (np.eye(6), np.nan), (np.eye(6), np.inf)):
        assert alignment_covariance(H, variance, 1.0) is None
    np.testing.assert_allclose(alignment_covariance(4 * np.eye(6), 2.0, 3.0), 1.5 * np.eye(6))


@given(st.lists(st.floats(-50, 50), min_size=6, max_size=6), st.floats(0, 100), st.floats(0, 10))
def test_always_positive_definite(xi: list[float], seconds: float, deviation: float) -> None:
    c = CovarianceConfig()
    T = exp(np.array(xi))[0]
    motion = motion_covariance(float(np.linalg.norm(T[:3, 3])), deviation, 1.0, c)
    assert np.linalg.eigvalsh(motion).min() > 0
    pose = UncertainPose(T, motion).after(T, motion + unseen_covariance(seconds, 1.0, 1.0, c))
    for C in (
        pose.reported_covariance(deviation),
        pose_message_covariance(pose.reported_covariance(deviation), pose.T_world_cam),
        still_covariance(1e-3, seconds, c),
    ):
        assert np.array_equal(C, C.T)
        assert np.linalg.eigvalsh(C).min() > 0


def test_shares_of_a_motion() -> None:
    c = CovarianceConfig(
        translation_error=0.02, rotation_error=0.1, least_translation=1e-9, least_rotation=1e-9
    )
    deviations = np.sqrt(np.diag(motion_covariance(5.0, 0.3, 2.0, c)))
    np.testing.assert_allclose(deviations, [0.2, 0.2, 0.2, 0.06, 0.06, 0.06])
    way = np.array([3.0, 0.0, 4.0])
    np.testing.assert_allclose(scale_covariance(way, 0.1)[:3, :3], 0.01 * np.outer(way, way))
    both = chained(np.eye(6), np.eye(4), 2 * np.eye(6))
    np.testing.assert_allclose(both, 3 * np.eye(6))


def test_unseen_time() -> None:
    c = CovarianceConfig(unseen_speed=0.2, unseen_rotation_rate=0.1)
    np.testing.assert_allclose(np.sqrt(np.diag(unseen_covariance(2.0, 5.0, 0.0, c))), [10] * 3 + [0.2] * 3)
    np.testing.assert_allclose(np.sqrt(np.diag(unseen_covariance(2.0, 0.0, 0.3, c))), [0.4] * 3 + [0.6] * 3)


def test_configurations_out_of_range() -> None:
    for bad in (0.0, -1.0, float("nan"), float("inf")):
        with pytest.raises(ConfigError, match="factor"):
            CovarianceConfig(factor=bad)
    for bad in (-0.1, 1.0, float("nan")):
        with pytest.raises(ConfigError, match="step_correlation"):
            CovarianceConfig(step_correlation=bad)
