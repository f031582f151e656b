"""What becomes of the motion that the network saw: believed, doubted, or refused."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from dualrefine_ros.covariance import (
    CovarianceConfig,
    Matrix,
    alignment_covariance,
    motion_covariance,
    scaled,
    still_covariance,
)
from dualrefine_ros.frame import Status
from dualrefine_ros.gates import is_still, not_borne_out, too_fast
from dualrefine_ros.geometry.rigid import nearest_rigid
from dualrefine_ros.observation import Observation, ObservedMotion
from dualrefine_ros.odometry_config import OdometryConfig


@dataclass(frozen=True)
class Verdict:
    """What becomes of a motion.

    Args:
        status: of the frame.
        cause: a sentence for the user; empty where all is well.
        T_prev_cur: (4, 4) in metres; None where there is none.
        covariance: (6, 6) of it, but for what the scale adds.
        borne_out: whether the images bear out the motion that was seen, believed or too fast to be: its scale
            may be what is wrong.
    """

    status: Status
    cause: str = ""
    T_prev_cur: Matrix | None = None
    covariance: Matrix | None = None
    borne_out: bool = False


def judge(
    seen: Observation,
    seconds: float,
    scale: float,
    was_still: bool,
    alone: str,
    blurred: str,
    config: OdometryConfig,
) -> Verdict:
    """Decide on what was seen.

    Args:
        seen: the frame's observation.
        seconds: since the frame it was matched with.
        scale: metres in one of the network's lengths.
        was_still: whether the camera stood still before.
        alone: why it was matched with none, if so.
        blurred: a sentence, if the image is.
        config: of the engine.
    """
    motion = seen.motion
    if not np.isfinite(seen.depth).all():
        return Verdict(Status.LOST, "The network gave depths that are not finite.")
    if motion is None:
        return Verdict(Status.FIRST, alone)
    T = motion.T_prev_cur.copy()
    T[:3, 3] *= scale
    if is_still(motion.image_flow, was_still, config.still):
        return Verdict(Status.STATIONARY, "", np.eye(4), _still(seen, scale, config))
    if cause := not_borne_out(T, motion.agreement, motion.agreement_at_rest, config.limits):
        return Verdict(Status.LOST, cause)
    if cause := too_fast(T, seconds, config.limits):
        return Verdict(Status.LOST, cause, borne_out=True)
    T = nearest_rigid(T)
    angle = motion.implied_flow / seen.remembered.intrinsics.fx
    covariance, cause = _covariance(T, angle, motion, scale, config.covariance), ""
    if not seen.sound:
        cause = (
            "Numbers of the network were not finite, or a pose could not be solved; the last good ones stand."
        )
    cause = cause or blurred
    if cause:
        covariance = covariance * config.covariance.unaligned_factor**2
    return Verdict(Status.DEGRADED if cause else Status.TRACKING, cause, T, covariance, borne_out=True)


def _covariance(T: Matrix, angle: float, motion: ObservedMotion, scale: float, c: CovarianceConfig) -> Matrix:
    """The alignment's, where there is one, and the share of the motion that no residual shows."""
    aligned = alignment_covariance(motion.H, motion.residual_variance, c.factor)
    distance = float(np.linalg.norm(T[:3, 3]))
    if aligned is None:
        return motion_covariance(distance, angle, c.unaligned_factor, c)
    return scaled(aligned, scale) + motion_covariance(distance, angle, 1.0, c)


def _still(seen: Observation, scale: float, config: OdometryConfig) -> Matrix:
    """What the gate would not have noticed."""
    angle = config.still.leave / seen.remembered.intrinsics.fx
    distance = float(np.nanmedian(seen.depth)) * scale
    return still_covariance(angle, distance, config.covariance)
