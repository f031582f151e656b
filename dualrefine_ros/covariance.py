"""How far off a motion may be: 6x6 covariances, in NumPy float64.

A covariance C of a motion T says ``T_true = exp(xi) T`` with ``xi ~ N(0, C)``; xi is (translation,
rotation), in the axes and about the origin of T's target frame (a left perturbation; Barfoot and Furgale,
"Associating Uncertainty with Three-Dimensional Poses for Use in Estimation Problems", 2014). ROS means
something else by the covariance of a pose: see :func:`pose_message_covariance`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from dualrefine_ros.errors import ConfigError

Matrix = npt.NDArray[np.float64]


@dataclass(frozen=True)
class CovarianceConfig:
    """From the alignment's own numbers to covariances; calibrate with ``dualrefine evaluate covariance``.

    Raises:
        ConfigError: a number is out of range.
    """

    factor: float = 30.0  # of the alignment's covariance: neighbouring pixels and channels err together
    step_correlation: float = 0.8  # of the errors of consecutive steps: a network errs alike in like scenes
    translation_error: float = 0.05  # what no residual shows, as a share of the distance (one deviation)
    rotation_error: float = 0.02  # the same of the rotation, as a share of the angle that the image moved by
    unaligned_factor: float = 5.0  # of both shares, where the network's first guess of the motion stands
    least_translation: float = 0.001  # metres, one deviation; never less
    least_rotation: float = 1e-4  # radians
    unseen_speed: float = 0.2  # metres a second, at least, that a robot may have moved while not observed
    unseen_rotation_rate: float = 0.1  # radians a second, at least, that it may have turned

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if name != "step_correlation" and not 0 < value < np.inf:
                raise ConfigError(f"{name} must be positive and finite, not {value}.")
        if not 0 <= self.step_correlation < 1:
            raise ConfigError(
                f"step_correlation must be at least 0 and below 1, not {self.step_correlation}."
            )

    @property
    def chain_factor(self) -> float:
        """How many times the variance of independent errors the sum of correlated ones has, in the long run.

        For errors of a first-order autoregressive process, ``(1 + r) / (1 - r)`` (Box, Jenkins, "Time Series
        Analysis", 1970, Ch. 3).
        """
        return (1 + self.step_correlation) / (1 - self.step_correlation)


def skew(v: Matrix) -> Matrix:
    """The (3, 3) matrix of the cross product with v (3,)."""
    x, y, z = v
    return np.array([[0.0, -z, y], [z, 0.0, -x], [-y, x, 0.0]])


def adjoint(T: Matrix) -> Matrix:
    """Ad (6, 6) of a rigid motion (4, 4): ``T exp(xi) T^-1 = exp(Ad xi)``."""
    R, t = T[:3, :3], T[:3, 3]
    Ad = np.zeros((6, 6))
    Ad[:3, :3] = Ad[3:, 3:] = R
    Ad[:3, 3:] = skew(t) @ R
    return Ad


def moved(covariance: Matrix, T: Matrix) -> Matrix:
    """The covariance of ``T M T^-1``, or of ``T M``, from that of M."""
    Ad = adjoint(T)
    return symmetric(Ad @ covariance @ Ad.T)


def chained(covariance_first: Matrix, T_first: Matrix, covariance_second: Matrix) -> Matrix:
    """The covariance of ``T_first T_second``, whose errors are independent."""
    return covariance_first + moved(covariance_second, T_first)


def scaled(covariance: Matrix, scale: float) -> Matrix:
    """The covariance after all lengths are multiplied."""
    s = np.repeat((scale, 1.0), 3)
    return covariance * np.outer(s, s)


def scale_covariance(displacement: Matrix, relative_deviation: float) -> Matrix:
    """What a scale that is off by a common factor adds to a way (3,) of which every step shares it."""
    covariance = np.zeros((6, 6))
    covariance[:3, :3] = relative_deviation**2 * np.outer(displacement, displacement)
    return covariance


def alignment_covariance(H: Matrix, residual_variance: float, factor: float) -> Matrix | None:
    """``factor * residual_variance * H^-1``; None where H (6, 6) cannot be inverted or a number is bad."""
    if not (np.isfinite(H).all() and np.isfinite(residual_variance) and residual_variance >= 0):
        return None
    try:
        half = np.linalg.inv(np.linalg.cholesky(symmetric(H)))
    except np.linalg.LinAlgError:
        return None
    covariance = factor * residual_variance * (half.T @ half)
    return symmetric(covariance) if np.isfinite(covariance).all() else None


def motion_covariance(distance: float, angle: float, factor: float, c: CovarianceConfig) -> Matrix:
    """The covariance of a motion known to a share of its own size, the same along all axes.

    Args:
        distance: metres.
        angle: radians that the image moved by: a wrong flow looks like a turn, whatever made the flow.
        factor: of both shares.
        c: the shares.
    """
    sigma_t, sigma_r = factor * c.translation_error * distance, factor * c.rotation_error * angle
    return rest_covariance(c) + np.diag(np.repeat((sigma_t**2, sigma_r**2), 3))


def rest_covariance(c: CovarianceConfig) -> Matrix:
    """The least covariance: that of a pose or a motion which is known as well as anything is."""
    return np.diag(np.repeat((c.least_translation**2, c.least_rotation**2), 3))


def still_covariance(angle: float, distance: float, c: CovarianceConfig) -> Matrix:
    """The covariance of standing still, when the image may move by an angle (radians) unnoticed.

    Args:
        angle: radians, one deviation.
        distance: metres to what is seen.
        c: the least of both.
    """
    return rest_covariance(c) + np.diag(np.repeat(((angle * distance) ** 2, angle**2), 3))


def unseen_covariance(seconds: float, speed: float, rotation_rate: float, c: CovarianceConfig) -> Matrix:
    """The covariance of a time without observation: as if it might have gone on as before, any way.

    Args:
        seconds: without observation.
        speed, rotation_rate: before, m/s and rad/s.
        c: the least of both.
    """
    sigma_t = seconds * max(speed, c.unseen_speed)
    sigma_r = min(seconds * max(rotation_rate, c.unseen_rotation_rate), np.pi)
    return np.diag(np.repeat((sigma_t**2, sigma_r**2), 3))


def pose_message_covariance(covariance: Matrix, T: Matrix) -> Matrix:
    """The covariance (6, 6) of the pose T as ROS means it: x y z roll pitch yaw.

    There, position and orientation err apart from each other, both in the axes of the reference frame:
    rotations count about the body's place and not about the frame's origin.
    """
    about_body = np.eye(4)
    about_body[:3, 3] = -T[:3, 3]
    return moved(covariance, about_body)


def twist_covariance(covariance: Matrix, seconds: float) -> Matrix:
    """The covariance of the mean velocity from that of a motion, which is small, and the time it took."""
    return covariance / seconds**2


def symmetric(matrix: Matrix) -> Matrix:
    """Rid of what rounding has made asymmetric."""
    return (matrix + matrix.T) / 2
