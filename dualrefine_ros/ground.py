"""The ground in front of a robot, found in a depth map: how high above it is the camera?

A plane ``a . X = 1`` (a: vector down, as long as the inverse of the height; X: points of the camera) has
residuals ``1 - a . X`` that are relative errors of the inverse depth, which is where a network's errors are
even. The direction of gravity is known roughly, so every pixel below the horizon votes for a height by
itself; the winners' plane is then refined by iteratively reweighted least squares.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from dualrefine_ros.errors import ConfigError

Matrix = npt.NDArray[np.float64]

_GRID = (60, 120)  # rows and columns of rays that are looked at, about
_BIN = 0.05  # of log height, in the vote
_ROUNDS = 8  # of reweighting
_ENOUGH = 50  # pixels
_PRIOR = 10  # pixels that gravity counts as


@dataclass(frozen=True)
class GroundConfig:
    """Where ground is looked for, and what passes for it.

    Raises:
        ConfigError: a value is out of range.
    """

    min_slope: float = 0.08  # sine of the angle below the horizon from which a ray may meet near ground
    half_width: float = 0.6  # of the image, around its middle, where the robot drives: 1 is all of it
    tolerance: float = 0.1  # relative, of inverse depth, within which a pixel lies on the plane
    max_tilt: float = 0.15  # radians between the plane's normal and gravity
    min_share: float = 0.3  # of the pixels looked at that must lie on the plane

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if not 0 < value <= 1:
                raise ConfigError(f"scale.ground.{name} must be in (0, 1], not {value}.")


@dataclass(frozen=True)
class Ground:
    """The ground as seen.

    Args:
        normal: (3,) unit vector from the camera to the ground.
        height: of the camera above it, in the depth map's unit.
        confidence: in (0, 1]: the share of the pixels that lie on it, less for a plane that is tilted.
    """

    normal: Matrix
    height: float
    confidence: float


def fit_ground(
    depth: npt.NDArray[np.float32], K: Matrix, down: Matrix, config: GroundConfig = GroundConfig()
) -> Ground | None:
    """The ground plane of a depth map; None where none is seen.

    Args:
        depth: (h, w); what is not finite and positive is left out.
        K: (3, 3) camera matrix at this size.
        down: (3,) unit vector of gravity in the camera's axes, to within ``max_tilt``.
        config: see :class:`GroundConfig`.
    """
    rays, z = _candidates(depth, K, down, config)
    if len(rays) < _ENOUGH:
        return None
    height = _vote(np.log(z * (rays @ down)))
    X = rays * z[:, None] / height  # 1 - X . a is the relative error of the inverse depth
    plane = down
    # gravity holds the plane's tilt, not its height, where the pixels leave it free
    upright = _PRIOR * (np.eye(3) - np.outer(down, down))
    for narrowing in np.linspace(3, 1, _ROUNDS):  # wide at first: gravity is only roughly known
        tukey = (1 - ((1 - X @ plane) / (narrowing * config.tolerance)) ** 2).clip(min=0) ** 2
        if np.count_nonzero(tukey) < _ENOUGH:
            return None
        plane = np.linalg.solve(X.T @ (tukey[:, None] * X) + upright, X.T @ tukey)
    length = float(np.linalg.norm(plane))
    share = float((np.abs(1 - X @ plane) < config.tolerance).mean())
    normal = plane / length
    tilt = float(np.arccos(np.clip(normal @ down, -1, 1)))
    if tilt > config.max_tilt or share < config.min_share:
        return None
    return Ground(normal, height / length, share * (1 - 0.5 * tilt / config.max_tilt))


def _candidates(
    depth: npt.NDArray[np.float32], K: Matrix, down: Matrix, config: GroundConfig
) -> tuple[Matrix, Matrix]:
    """Rays (N, 3) with z = 1 that may meet the ground, and depths (N,) along them."""
    h, w = depth.shape
    v, u = np.mgrid[0 : h : max(1, h // _GRID[0]), 0 : w : max(1, w // _GRID[1])]
    pixels = np.stack((u.ravel(), v.ravel(), np.ones(u.size)))
    rays = (np.linalg.inv(K) @ pixels).T
    z = depth[v.ravel(), u.ravel()].astype(np.float64)
    slope = rays @ down / np.linalg.norm(rays, axis=1)
    central = np.abs(u.ravel() - (w - 1) / 2) <= config.half_width * w / 2
    good = (slope > config.min_slope) & central & np.isfinite(z) & (z > 0)
    return rays[good], z[good]


def _vote(log_heights: Matrix) -> float:
    """The height that most pixels agree on, to within a bin; neighbouring bins smooth the count."""
    least = log_heights.min()
    counts = np.bincount(((log_heights - least) / _BIN).astype(int))
    smooth = np.convolve(counts, (1, 2, 3, 2, 1))[2:-2]
    return float(np.exp(least + (smooth.argmax() + 0.5) * _BIN))
