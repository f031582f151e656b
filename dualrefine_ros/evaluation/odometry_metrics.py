"""How far an estimated trajectory is from the true one, in the figures of the literature.

- ``t_err`` (%) and ``r_err`` (deg / 100 m): KITTI odometry benchmark (Geiger et al., "Are we ready for
  Autonomous Driving?", CVPR 2012). Relative pose errors over segments of 100, 200, ..., 800 m of the
  true path, starting at every 10th true pose, divided by the segment's length, averaged over segments.
- ``ate`` (m): root mean square of the position errors (Sturm et al., "A Benchmark for the Evaluation of
  RGB-D SLAM Systems", IROS 2012).
- ``rpe_m`` (m), ``rpe_deg`` (deg): mean error of the motion between consecutive poses.
- ``scale_spread``: standard deviation over mean of estimated over true length of a step, of the steps in
  which the camera moved. A monocular estimate whose scale drifts has a large one, whatever the alignment.

Both trajectories are first expressed relative to their first common pose, then the estimate is aligned.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from dualrefine_ros.errors import DataError
from dualrefine_ros.evaluation.alignment import Alignment, Similarity, align, associate
from dualrefine_ros.geometry.trajectory import Trajectory

SEGMENT_LENGTHS = (100, 200, 300, 400, 500, 600, 700, 800)  # m
SEGMENT_START_STEP = 10  # true poses
# An estimate with more than this share of the true poses lacks the others; with less, it skips on purpose.
COMPLETE = 0.75
MAX_STAMP_DIFFERENCE = 0.01  # s
MOVED = 0.2  # m, the least length of a step whose scale counts
DRIFT_WINDOW = 50.0  # m, the most over which a local scale is measured

FloatArray = npt.NDArray[np.float64]


@dataclass(frozen=True)
class SegmentErrors:
    """Errors over segments of the true path, one entry a segment.

    Args:
        lengths: (S,) metres, out of ``SEGMENT_LENGTHS``.
        translation: (S,) metres of error per metre.
        rotation: (S,) radians of error per metre.
    """

    lengths: npt.NDArray[np.int64]
    translation: FloatArray
    rotation: FloatArray

    def t_err(self, length: int | None = None) -> float | None:
        """Mean translation error in % of all segments or of those of one length; None without any."""
        return _mean(self.translation[self._of(length)] * 100)

    def r_err(self, length: int | None = None) -> float | None:
        """Mean rotation error in degrees per 100 m, likewise."""
        return _mean(np.rad2deg(self.rotation[self._of(length)]) * 100)

    def _of(self, length: int | None) -> npt.NDArray[np.bool_]:
        return np.ones(len(self.lengths), bool) if length is None else self.lengths == length


@dataclass(frozen=True)
class OdometryResult:
    """An estimate compared with ground truth; a figure that does not exist is None.

    Args:
        alignment: what was fitted.
        similarity: the fit, from the estimate's to the true first camera.
        estimate: the matched poses of the estimate, aligned.
        truth: the true poses of the same moments, relative to their first.
        T_world_first: (4, 4) the first of them in the world of the ground truth.
        segments: the KITTI segments behind ``t_err`` and ``r_err``.
        t_err, r_err, ate, rpe_m, rpe_deg: see the module.
    """

    alignment: Alignment
    similarity: Similarity
    estimate: Trajectory
    truth: Trajectory
    T_world_first: FloatArray
    segments: SegmentErrors
    t_err: float | None
    r_err: float | None
    ate: float
    rpe_m: float
    rpe_deg: float

    @property
    def ate_percent(self) -> float | None:
        """``ate`` in % of the true path's length; None where the camera stood still."""
        length = float(self.truth.distances()[-1])
        return 100 * self.ate / length if length > 0 else None

    @property
    def scale_spread(self) -> float | None:
        """See the module; None where the camera never moved, or nothing was estimated."""
        estimated, true = (
            np.linalg.norm(np.diff(trajectory.positions, axis=0), axis=1)
            for trajectory in (self.estimate, self.truth)
        )
        moved = true > MOVED
        ratios = estimated[moved] / true[moved]
        return float(ratios.std() / ratios.mean()) if len(ratios) and ratios.mean() > 0 else None

    def figures(self) -> dict[str, Any]:
        """What is written to JSON files; None stands for a figure that does not exist."""
        return {
            "t_err": self.t_err,
            "r_err": self.r_err,
            "ate": self.ate,
            "rpe_m": self.rpe_m,
            "rpe_deg": self.rpe_deg,
            "ate_percent": self.ate_percent,
            "scale_spread": self.scale_spread,
            "align": self.alignment.value,
            "frames": len(self.estimate),
            "length_m": float(self.truth.distances()[-1]),
            "scale": self.similarity.scale,
            "note": self.missing_figures(),
        }

    def missing_figures(self) -> str | None:
        """One sentence on the figures that do not exist; None when all do."""
        if self.t_err is not None:
            return None
        length = self.truth.distances()[-1]
        if length <= SEGMENT_LENGTHS[0]:
            return (
                f"t_err and r_err do not exist: they need {SEGMENT_LENGTHS[0]} m of true path and the frames "
                f"in common cover {length:.1f} m."
            )
        return (
            f"t_err and r_err do not exist: no {SEGMENT_LENGTHS[0]} m of true path, begun at every "
            f"{SEGMENT_START_STEP}th true pose, has both its ends in the estimate."
        )


def evaluate_odometry(
    estimate: Trajectory,
    truth: Trajectory,
    alignment: Alignment,
    max_difference: float = MAX_STAMP_DIFFERENCE,
) -> OdometryResult:
    """Compare an estimate with ground truth.

    Args:
        estimate, truth: poses ``T_world_cam`` of the same camera, each in a world of its own.
        alignment: what to fit to the positions first.
        max_difference: the most seconds between the stamps of one moment.

    Raises:
        DataError: fewer than two poses belong together, or the alignment does not exist.
    """
    in_estimate, in_truth = associate(estimate, truth, max_difference)
    if len(in_estimate) < 2:
        raise DataError("The estimate and the ground truth have one pose in common: a motion needs two.")
    matched_estimate = estimate[in_estimate].relative_to_first()
    matched_truth = truth[in_truth].relative_to_first()
    similarity = align(matched_estimate, matched_truth, alignment)
    aligned = similarity.apply(matched_estimate)
    segments = segment_errors(aligned, truth, in_truth)
    steps, true_steps = (_motions(t.poses[:-1], t.poses[1:]) for t in (aligned, matched_truth))
    step_errors = _differences(true_steps, steps)
    return OdometryResult(
        alignment,
        similarity,
        aligned,
        matched_truth,
        truth.poses[in_truth[0]],
        segments,
        t_err=segments.t_err(),
        r_err=segments.r_err(),
        ate=float(np.sqrt(np.mean(position_errors(aligned, matched_truth) ** 2))),
        rpe_m=float(np.mean(step_errors[0])),
        rpe_deg=float(np.mean(np.rad2deg(step_errors[1]))),
    )


def segment_errors(estimate: Trajectory, truth: Trajectory, in_truth: npt.NDArray[np.intp]) -> SegmentErrors:
    """Relative pose errors over the KITTI segments that have both ends in the estimate.

    Where the estimate has far fewer poses than the ground truth (every second frame of a sequence, or
    100 Hz of ground truth for 10 Hz of images), segments begin and end at matched poses only.

    Args:
        estimate: M poses.
        truth: all true poses.
        in_truth: (M,) the index of each estimated pose in ``truth``.
    """
    covered = in_truth[-1] - in_truth[0] + 1
    ends = np.arange(len(truth)) if len(in_truth) > COMPLETE * covered else in_truth
    distances = truth.distances()
    row_of = np.full(len(truth), -1)
    row_of[in_truth] = np.arange(len(in_truth))
    firsts, lasts, lengths = [], [], []
    for length in SEGMENT_LENGTHS:
        first = ends[::SEGMENT_START_STEP]
        last = np.searchsorted(distances[ends], distances[first] + length, side="right")
        first, last = first[last < len(ends)], ends[last[last < len(ends)]]
        known = (row_of[first] >= 0) & (row_of[last] >= 0)
        firsts.append(first[known])
        lasts.append(last[known])
        lengths.append(np.full(known.sum(), length))
    first, last, length_of = np.concatenate(firsts), np.concatenate(lasts), np.concatenate(lengths)
    motions = _motions(estimate.poses[row_of[first]], estimate.poses[row_of[last]])
    translation, rotation = _differences(motions, _motions(truth.poses[first], truth.poses[last]))
    return SegmentErrors(length_of, translation / length_of, rotation / length_of)


def position_errors(estimate: Trajectory, truth: Trajectory) -> FloatArray:
    """(N,) metres between the positions of two trajectories of N poses."""
    return np.linalg.norm(estimate.positions - truth.positions, axis=1)


def local_scale(result: OdometryResult) -> tuple[npt.NDArray[np.intp], FloatArray]:
    """The scale along the way: estimated over true displacement in a window that slides over the path.

    The window is ``DRIFT_WINDOW`` of true path, a tenth of it where it is short.

    Returns:
        (S,) the index of each window's last pose, (S,) ratios; empty where the true camera stands still.
    """
    distances = result.truth.distances()
    window = min(DRIFT_WINDOW, distances[-1] / 10)
    last = np.searchsorted(distances, distances + window, side="left")
    first = np.flatnonzero(last < len(distances))
    last = last[first]
    true_length = np.linalg.norm(result.truth.positions[last] - result.truth.positions[first], axis=1)
    length = np.linalg.norm(result.estimate.positions[last] - result.estimate.positions[first], axis=1)
    moved = true_length > 0
    return last[moved], length[moved] / true_length[moved]


def _motions(first: FloatArray, last: FloatArray) -> FloatArray:
    """(N, 4, 4) motions between (N, 4, 4) poses."""
    return np.linalg.inv(first) @ last


def _differences(motion: FloatArray, other: FloatArray) -> tuple[FloatArray, FloatArray]:
    """What separates (N, 4, 4) motions: (N,) metres and (N,) radians of ``inv(motion) @ other``.

    The angle comes from the trace alone, as in the benchmark's own program. Poses read from text are not
    quite rotations, and on small angles that shows: the order of the arguments matters in the third digit.
    """
    error = np.linalg.inv(motion) @ other
    cosine = (np.trace(error[:, :3, :3], axis1=1, axis2=2) - 1) / 2
    return np.linalg.norm(error[:, :3, 3], axis=1), np.arccos(np.clip(cosine, -1, 1))


def _mean(values: FloatArray) -> float | None:
    return float(np.mean(values)) if len(values) else None
