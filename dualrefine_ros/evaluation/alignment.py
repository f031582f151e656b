"""Which pose belongs to which ground truth, and the similarity that lays one trajectory on another."""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import Enum

import numpy as np
import numpy.typing as npt

from dualrefine_ros.errors import DataError
from dualrefine_ros.frame import NANOSECONDS
from dualrefine_ros.geometry.trajectory import Trajectory


class Alignment(Enum):
    """What may be fitted before an estimate is compared with ground truth."""

    NONE = "none"
    SCALE = "scale"  # monocular odometry does not observe it
    RIGID = "6dof"
    SIMILARITY = "7dof"


@dataclass(frozen=True)
class Similarity:
    """Maps a point x to ``scale * R @ x + t``: a (3, 3) rotation, a (3,) translation, a positive scale."""

    R: npt.NDArray[np.float64]
    t: npt.NDArray[np.float64]
    scale: float

    def apply(self, trajectory: Trajectory) -> Trajectory:
        """The trajectory seen from the target frame: positions scaled, then both rotated and moved."""
        T = np.eye(4)
        T[:3, :3], T[:3, 3] = self.R, self.t
        poses = trajectory.poses.copy()
        poses[:, :3, 3] *= self.scale
        return replace(trajectory, poses=T @ poses)


def umeyama(
    source: npt.NDArray[np.float64], target: npt.NDArray[np.float64], *, with_scale: bool
) -> Similarity:
    """The similarity (rigid motion, without scale) from ``source`` to ``target`` of least squared error.

    Umeyama, "Least-Squares Estimation of Transformation Parameters Between Two Point Patterns", 1991,
    equations 38 to 43. Points that do not span a plane leave a rotation about their line free: any of
    the equally good ones is returned.

    Args:
        source, target: (N, 3) corresponding points in metres, N >= 1.
        with_scale: fit the scale; needs source points that are not all the same.

    Raises:
        DataError: the scale is asked for and does not exist.
    """
    mean_source, mean_target = source.mean(axis=0), target.mean(axis=0)
    centred_source, centred_target = source - mean_source, target - mean_target
    covariance = centred_target.T @ centred_source / len(source)
    U, singular_values, Vt = np.linalg.svd(covariance)
    signs = np.array([1.0, 1.0, np.sign(np.linalg.det(U) * np.linalg.det(Vt))])  # no reflection
    R = (U * signs) @ Vt
    scale = 1.0
    if with_scale:
        variance = np.mean(np.sum(centred_source**2, axis=1))
        scale = _positive_scale(float(singular_values @ signs), float(variance))
    return Similarity(R, mean_target - scale * R @ mean_source, scale)


def align(estimate: Trajectory, truth: Trajectory, alignment: Alignment) -> Similarity:
    """The similarity that lays an estimate on the ground truth of the same frames.

    ``SCALE`` is least squares through the origin: both trajectories must start there.

    Raises:
        DataError: a scale is asked for and the estimate does not move.
    """
    if alignment is Alignment.NONE:
        return Similarity(np.eye(3), np.zeros(3), 1.0)
    if alignment is Alignment.SCALE:
        dot = float(np.sum(estimate.positions * truth.positions))
        return Similarity(np.eye(3), np.zeros(3), _positive_scale(dot, float(np.sum(estimate.positions**2))))
    return umeyama(estimate.positions, truth.positions, with_scale=alignment is Alignment.SIMILARITY)


def _positive_scale(dot: float, squared_length: float) -> float:
    if squared_length <= 0 or dot <= 0:
        raise DataError(
            "No scale fits the estimate to the ground truth: one of them does not move, or they move in "
            "opposite directions; use the alignment none or 6dof."
        )
    return dot / squared_length


def associate(
    estimate: Trajectory, truth: Trajectory, max_difference: float
) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.intp]]:
    """Which poses of two trajectories belong together: by stamp where both have them, else by frame number.

    Args:
        max_difference: the most seconds between two stamps of one moment. Every pose is used at most
            once, with the nearest of the other trajectory.

    Returns:
        (M,) indices into ``estimate`` and (M,) into ``truth``, both increasing.

    Raises:
        DataError: one has stamps only and the other frame numbers only, or nothing belongs together.
    """
    if estimate.stamps_ns is not None and truth.stamps_ns is not None:
        indices = _nearest(estimate.stamps_ns, truth.stamps_ns, round(max_difference * NANOSECONDS))
        spans = [f"{t.stamps[0]:.3f} to {t.stamps[-1]:.3f} s" for t in (estimate, truth)]
        advice = f"no stamps lie within {max_difference:g} s of each other (--time-offset shifts them)"
    elif estimate.frames is not None and truth.frames is not None:
        _, *indices = np.intersect1d(estimate.frames, truth.frames, return_indices=True)
        spans = [f"{t.frames[0]} to {t.frames[-1]}" for t in (estimate, truth) if t.frames is not None]
        advice = "no frame number is in both"
    else:
        raise DataError(
            "One trajectory has stamps and the other frame numbers only: give the times of the frames "
            "(--times, KITTI's times.txt)."
        )
    if len(indices[0]) == 0:
        raise DataError(
            f"The estimate ({spans[0]}) and the ground truth ({spans[1]}) have nothing in common: {advice}."
        )
    return indices[0], indices[1]


def _nearest(
    stamps: npt.NDArray[np.int64], others: npt.NDArray[np.int64], max_difference: int
) -> list[npt.NDArray[np.intp]]:
    """Mutually nearest stamps no further apart than ``max_difference``; ascending input and output."""
    forth, back = _nearest_index(stamps, others), _nearest_index(others, stamps)
    rows = np.arange(len(stamps))
    mutual = (back[forth] == rows) & (np.abs(others[forth] - stamps) <= max_difference)
    return [rows[mutual], forth[mutual]]


def _nearest_index(
    queries: npt.NDArray[np.int64], sorted_values: npt.NDArray[np.int64]
) -> npt.NDArray[np.intp]:
    right = np.clip(np.searchsorted(sorted_values, queries), 1, max(1, len(sorted_values) - 1))
    right = np.minimum(right, len(sorted_values) - 1)
    left = np.maximum(right - 1, 0)
    return np.where(queries - sorted_values[left] <= sorted_values[right] - queries, left, right)
