"""Scale: planes of known height, speedometers of known factor."""

from __future__ import annotations

import math

import numpy as np
import pytest

from dualrefine_ros.errors import ConfigError
from dualrefine_ros.ground import fit_ground
from dualrefine_ros.scale import Scale, ScaleConfig, ScaleEstimator, pooled, weighted_median

HEIGHT, WIDTH = 192, 640
K = np.array([[360.0, 0.0, 319.5], [0.0, 360.0, 90.0], [0.0, 0.0, 1.0]])
LEVEL = np.array([0.0, 1.0, 0.0])
SECOND = 1_000_000_000
Matrix = np.ndarray


def down(pitch: float = 0.0, roll: float = 0.0) -> Matrix:
    """Gravity in the axes of a camera that looks up by ``pitch`` and leans right by ``roll``, radians."""
    direction = np.array(
        [math.sin(roll), math.cos(roll) * math.cos(pitch), -math.cos(roll) * math.sin(pitch)]
    )
    return direction / np.linalg.norm(direction)


def road(height: float, normal: Matrix = LEVEL, background: float = 40.0) -> Matrix:
    """Depth of a plane below the camera, and of a wall at a distance behind it."""
    v, u = np.mgrid[0:HEIGHT, 0:WIDTH]
    rays = np.stack(((u - K[0, 2]) / K[0, 0], (v - K[1, 2]) / K[1, 1], np.ones_like(u, float)), -1)
    slope = rays @ normal
    plane = np.where(slope > 0, height / np.maximum(slope, 1e-9), np.inf)
    return np.minimum(plane, background).astype(np.float32)


def noisy(depth: Matrix, share: float, seed: int = 0) -> Matrix:
    """Relative errors that are alike in neighbouring pixels, as a network's are."""
    rng = np.random.default_rng(seed)
    coarse = rng.normal(size=(HEIGHT // 8, WIDTH // 8))
    return (depth * (1 + share * np.kron(coarse, np.ones((8, 8))))).astype(np.float32)


@pytest.mark.parametrize("height", [0.2, 1.65, 12.0])
@pytest.mark.parametrize("pitch", [-0.05, 0.0, 0.1])
def test_a_plane_of_known_height(height: float, pitch: float) -> None:
    normal = down(pitch)
    ground = fit_ground(road(height, normal, background=30 * height), K, normal)
    assert ground is not None
    assert ground.height == pytest.approx(height, rel=1e-3)
    np.testing.assert_allclose(ground.normal, normal, atol=1e-3)
    assert ground.confidence > 0.8


@pytest.mark.parametrize(("pitch", "roll"), [(0.05, 0.0), (-0.05, 0.0), (0.0, 0.06), (0.03, -0.05)])
def test_a_tilt_that_nobody_told(pitch: float, roll: float) -> None:
    """The robot brakes, or the road slopes: the plane is found where it is, not where gravity says."""
    normal = down(pitch, roll)
    ground = fit_ground(road(1.65, normal), K, LEVEL)
    assert ground is not None
    assert ground.height == pytest.approx(1.65, rel=0.02)
    np.testing.assert_allclose(ground.normal, normal, atol=0.02)


def test_noise_and_traffic() -> None:
    """A car takes a third of the road, a kerb and a wall stand beside it, depth errs by 5 %."""
    depth = road(1.65)
    depth[:, 260:380] = np.minimum(depth[:, 260:380], 8.0)
    depth[:, :170] = np.minimum(depth[:, :170], road(1.45)[:, :170])
    depth[:, 500:] = np.minimum(depth[:, 500:], 6.0)
    ground = fit_ground(noisy(depth, 0.05), K, LEVEL)
    assert ground is not None
    assert ground.height == pytest.approx(1.65, rel=0.03)


def test_holes_are_left_out() -> None:
    depth = road(1.65)
    rng = np.random.default_rng(0)
    for bad in (np.nan, np.inf, 0.0, -1.0):
        depth[rng.random(depth.shape) < 0.15] = bad
    ground = fit_ground(depth, K, LEVEL)
    assert ground is not None
    assert ground.height == pytest.approx(1.65, rel=1e-3)


def test_no_ground_no_answer() -> None:
    rng = np.random.default_rng(0)
    wall = np.full((HEIGHT, WIDTH), 5.0, np.float32)
    for depth in (
        wall,
        np.full_like(wall, np.nan),
        rng.uniform(1, 80, wall.shape).astype(np.float32),
        road(1.65, down(0.4)),  # too steep for a floor
    ):
        assert fit_ground(depth, K, LEVEL) is None
    assert fit_ground(road(1.65), K, -LEVEL) is None  # a camera upside down whose extrinsics say so
    assert fit_ground(wall[:4, :4], K, LEVEL) is None


def of_height(**changes: object) -> ScaleEstimator:
    return ScaleEstimator(ScaleConfig(mode="camera_height", camera_height=1.65, factor=3.0, **changes))


def test_camera_height_scales_the_networks_metres() -> None:
    estimator = of_height()
    assert estimator.current == Scale(3.0, 0.0, 0.1)  # a fallback until ground is seen
    for i in range(20):
        estimator.see_depth(i * SECOND // 10, noisy(road(0.055), 0.03, seed=i), K, LEVEL)
        scale = estimator.update(i * SECOND // 10)
    assert scale.factor == pytest.approx(30.0, rel=0.02)
    assert scale.confidence > 0.5
    assert 0 < scale.deviation < 0.1


def test_no_ground_keeps_the_last_good_scale() -> None:
    estimator = of_height(window=1.0)
    for i in range(10):
        estimator.see_depth(i * SECOND // 10, road(0.0825), K, LEVEL)
        estimator.update(i * SECOND // 10)
    for i in range(10, 40):
        estimator.see_depth(i * SECOND // 10, np.full((HEIGHT, WIDTH), 1.0, np.float32), K, LEVEL)
        scale = estimator.update(i * SECOND // 10)
    assert scale.factor == pytest.approx(20.0, rel=0.01)
    assert scale.confidence == 0.0


def test_single_frames_do_not_shake_it() -> None:
    estimator = of_height()
    factors = []
    for i in range(30):
        height = 0.165 if i in (12, 20) else 0.0825
        estimator.see_depth(i * SECOND // 10, road(height), K, LEVEL)
        factors.append(estimator.update(i * SECOND // 10).factor)
    np.testing.assert_allclose(factors[10:], 20.0, rtol=0.01)


def external(**changes: object) -> ScaleEstimator:
    return ScaleEstimator(ScaleConfig(mode="external", **changes))


def drive(estimator: ScaleEstimator, factor: float, steps: int = 30, speed: float = 5.0) -> Scale:
    """10 Hz images, 50 Hz speedometer, the network's lengths a ``factor`` too short."""
    for k in range(-2, 5 * steps + 5):
        estimator.add_speed(k * SECOND // 50, -speed)  # backwards counts as well
    for i in range(1, steps):
        estimator.see_motion((i - 1) * SECOND // 10, i * SECOND // 10, speed / 10 / factor, 0.0)
        scale = estimator.update(i * SECOND // 10)
    return scale


def test_external_speed() -> None:
    scale = drive(external(), 7.0)
    assert scale.factor == pytest.approx(7.0, rel=1e-6)
    assert scale.confidence > 0.9


def test_external_speed_that_changes() -> None:
    """The way between two images is the integral of the speed, not its last value."""
    estimator = external()
    for k in range(200):
        estimator.add_speed(k * SECOND // 50, 4.0 + 3.0 * math.sin(k / 15))
    for i in range(1, 39):
        start, end = 5 * (i - 1), 5 * i
        way = (4.0 * (end - start) - 45.0 * (math.cos(end / 15) - math.cos(start / 15))) / 50
        estimator.see_motion(start * SECOND // 50, end * SECOND // 50, way / 2.5, 0.0)
    scale = estimator.update(38 * SECOND // 10)
    assert scale.factor == pytest.approx(2.5, rel=2e-3)


@pytest.mark.parametrize("case", ["standing", "turning", "silent", "nothing"])
def test_external_speed_says_nothing(case: str) -> None:
    """Standing, turning on the spot, or without readings at the time, the factor stays what it was."""
    estimator = external(factor=4.0)
    for k in range(50):
        if case != "nothing":
            estimator.add_speed(k * SECOND // 50, 0.01 if case == "standing" else 2.0)
    at = 100 if case == "silent" else 0
    for i in range(1, 9):
        angle = 0.2 if case == "turning" else 0.0
        estimator.see_motion((10 * at + i - 1) * SECOND // 10, (10 * at + i) * SECOND // 10, 0.3, angle)
    scale = estimator.update((10 * at + 9) * SECOND // 10)
    assert (scale.factor, scale.confidence) == (4.0, 0.0)


def test_wild_readings_are_outvoted() -> None:
    estimator = external()
    estimator.add_speed(0, math.nan)
    estimator.add_speed(1, math.inf)
    drive(estimator, 7.0, steps=20)
    for i in range(20, 24):
        estimator.see_motion((i - 1) * SECOND // 10, i * SECOND // 10, 50.0, 0.0)
    assert estimator.update(24 * SECOND // 10).factor == pytest.approx(7.0, rel=1e-6)


def test_pooling() -> None:
    assert weighted_median(np.array([3.0, 1.0, 2.0]), np.array([1.0, 1.0, 1.0])) == 2.0
    assert weighted_median(np.array([3.0, 1.0, 2.0]), np.array([9.0, 1.0, 1.0])) == 3.0
    agreed = pooled(np.log([2.0] * 8), np.ones(8))
    scattered = pooled(np.log([1.0, 4.0, 2.0, 2.5, 1.5, 3.0, 2.0, 2.0]), np.ones(8))
    assert agreed.factor == pytest.approx(2.0)
    assert agreed.confidence > scattered.confidence
    assert agreed.deviation < scattered.deviation
    assert pooled(np.log([2.0]), np.ones(1)).confidence < agreed.confidence
    assert pooled(np.zeros(0), np.zeros(0)).confidence == 0


def test_fixed() -> None:
    estimator = ScaleEstimator(ScaleConfig(factor=2.0))
    estimator.see_depth(0, road(1.0), K, LEVEL)
    drive(estimator, 7.0)
    assert estimator.update(5 * SECOND) == Scale(2.0, 1.0, 0.1)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"mode": "guess"}, "scale.mode"),
        ({"mode": "camera_height"}, "camera_height"),
        ({"factor": 0.0}, "factor"),
        ({"factor": math.nan}, "factor"),
        ({"window": -1.0}, "window"),
    ],
)
def test_configurations_out_of_range(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        ScaleConfig(**changes)
