"""What the engine remembers from frame to frame: where it was, what it saw."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np

from dualrefine_ros.covariance import (
    CovarianceConfig,
    Matrix,
    chained,
    scale_covariance,
    symmetric,
    unseen_covariance,
)
from dualrefine_ros.frame import NANOSECONDS, Intrinsics, Status
from dualrefine_ros.gates import Look
from dualrefine_ros.geometry.rigid import nearest_rigid, rotation_angle
from dualrefine_ros.judgement import Verdict
from dualrefine_ros.network_io import same_camera
from dualrefine_ros.observation import Remembered
from dualrefine_ros.odometry_config import OdometryConfig

_MISSES = 2  # motions in a row that cannot be believed, after which the frame matched with is given up


@dataclass(frozen=True)
class UncertainPose:
    """A pose of the camera in the world, its errors in the manner of :mod:`dualrefine_ros.covariance`.

    Args:
        T_world_cam: (4, 4).
        covariance: (6, 6), of all errors but that of the scale.
        start: (3,), where the trajectory began: from here on, an error of the scale adds up.
    """

    T_world_cam: Matrix = field(default_factory=lambda: np.eye(4))
    covariance: Matrix = field(default_factory=lambda: np.zeros((6, 6)))
    start: Matrix = field(default_factory=lambda: np.zeros(3))

    def after(self, T_prev_cur: Matrix, covariance: Matrix) -> UncertainPose:
        """The pose after a motion (4, 4) and the covariance (6, 6) of that."""
        return replace(
            self,
            T_world_cam=nearest_rigid(self.T_world_cam @ T_prev_cur),
            covariance=chained(self.covariance, self.T_world_cam, covariance),
        )

    def reported_covariance(self, scale_deviation: float) -> Matrix:
        """The whole (6, 6), with a scale of this relative deviation in every step since the start."""
        way = self.T_world_cam[:3, 3] - self.start
        return symmetric(self.covariance + scale_covariance(way, scale_deviation))


@dataclass(frozen=True)
class Keyframe:
    """The frame that the next one is matched with."""

    stamp_ns: int
    pose: UncertainPose
    remembered: Remembered


@dataclass(frozen=True)
class Memory:
    """All that is known of the past.

    Args:
        pose: at ``seen_ns``.
        seen_ns: stamp of the last frame whose pose is known.
        stamp_ns: of the last frame.
        look: at the last image.
        still: whether the camera stood still.
        misses: motions in a row that could not be believed.
        speed, rotation_rate: of the last motion, m/s and rad/s.
    """

    pose: UncertainPose
    key: Keyframe | None = None
    seen_ns: int | None = None
    stamp_ns: int | None = None
    look: Look | None = None
    still: bool = False
    misses: int = 0
    speed: float = 0.0
    rotation_rate: float = 0.0

    def partner(self, stamp_ns: int, intrinsics: Intrinsics, max_gap: float) -> tuple[Keyframe | None, str]:
        """The frame to match the next one with, or why there is none.

        Args:
            stamp_ns: of the next frame.
            intrinsics: of the next frame, at network size.
            max_gap: seconds.
        """
        if self.key is None or self.stamp_ns is None or self.seen_ns is None:
            return None, ""
        latest = max(self.stamp_ns, self.seen_ns)
        if stamp_ns <= latest:
            back = (latest - stamp_ns) / NANOSECONDS
            what = f"jump back by {back:.3f} s" if back else "repeat"
            return None, f"The stamps {what}: a new pair begins at the last pose."
        gap = (stamp_ns - self.seen_ns) / NANOSECONDS
        if gap > max_gap:
            return (
                None,
                f"A gap of {gap:.2f} s (max_gap is {max_gap:g} s): a new pair begins at the last pose.",
            )
        if not same_camera(self.key.remembered.intrinsics, intrinsics):
            return None, "The camera's intrinsics changed: a new pair begins at the last pose."
        return self.key, ""

    def pose_at(self, stamp_ns: int, config: CovarianceConfig) -> UncertainPose:
        """The last pose, less and less sure with the time since: nothing tells where the camera went."""
        if self.seen_ns is None or stamp_ns <= self.seen_ns:
            return self.pose
        seconds = (stamp_ns - self.seen_ns) / NANOSECONDS
        unseen = unseen_covariance(seconds, self.speed, self.rotation_rate, config)
        return self.pose.after(np.eye(4), unseen)

    def after(
        self,
        stamp_ns: int,
        look: Look,
        verdict: Verdict,
        remembered: Remembered | None,
        flow: float,
        config: OdometryConfig,
    ) -> tuple[Memory, UncertainPose]:
        """What is to be remembered after a frame, and the pose at it.

        Args:
            stamp_ns: of the frame.
            look: at its image.
            verdict: on its motion.
            remembered: what the network left for the next frame; None where it saw nothing usable.
            flow: pixels that the motion moved the image.
            config: of the engine.
        """
        now = replace(self, stamp_ns=stamp_ns, look=look, still=verdict.status is Status.STATIONARY)
        pose = self.pose_at(stamp_ns, config.covariance)
        key = None if remembered is None else Keyframe(stamp_ns, pose, remembered)
        if verdict.status is Status.LOST:
            misses = self.misses + (remembered is not None)
            if key is None or misses < _MISSES:  # the scene may come back
                return replace(now, misses=misses), pose
            return replace(now, pose=pose, key=key, seen_ns=stamp_ns, misses=0), pose
        if self.key is None or verdict.T_prev_cur is None or verdict.covariance is None:
            seen_ns = self.seen_ns if key is None else stamp_ns
            return replace(now, pose=pose, key=key, seen_ns=seen_ns, misses=0), pose
        if verdict.status is Status.STATIONARY:
            pose = self.key.pose
            return replace(now, pose=pose, seen_ns=stamp_ns, misses=0, speed=0.0, rotation_rate=0.0), pose
        seconds = (stamp_ns - self.key.stamp_ns) / NANOSECONDS
        speed = float(np.linalg.norm(verdict.T_prev_cur[:3, 3])) / seconds
        rate = rotation_angle(verdict.T_prev_cur) / seconds
        alike = verdict.covariance * config.covariance.chain_factor
        pose = self.key.pose.after(verdict.T_prev_cur, alike)
        moved_on = key is not None and flow >= config.min_flow
        key = replace(key, pose=pose) if key is not None and moved_on else self.key
        now = replace(now, pose=pose, key=key, seen_ns=stamp_ns, misses=0)
        return replace(now, speed=speed, rotation_rate=rate), pose
