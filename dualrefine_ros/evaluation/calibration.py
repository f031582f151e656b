"""Do covariances promise what errors keep? Normalised errors against ground truth.

The normalised squared error ``xi^T C^-1 xi`` of an honest 6x6 covariance is chi-squared with 6 degrees of
freedom: 6 on average, below 12.59 in 95 % of all cases (Bar-Shalom, Li, Kirubarajan, "Estimation with
Applications to Tracking and Navigation", 2001, Sec. 5.4). More: too sure of itself; less: too modest.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from dualrefine_ros.covariance import scaled
from dualrefine_ros.errors import DataError
from dualrefine_ros.evaluation.replay import Step
from dualrefine_ros.frame import Status
from dualrefine_ros.geometry.rigid import inverse, se3_log

Matrix = npt.NDArray[np.float64]

DEGREES = 6
CHI2_95 = 12.592  # of 6 degrees of freedom
AXES = ("x", "y", "z", "roll", "pitch", "yaw")  # of the optical frame: right, down, forward


@dataclass(frozen=True)
class Calibration:
    """Errors of motions (N, 6) and their covariances (N, 6, 6)."""

    errors: Matrix
    covariances: Matrix

    @property
    def normalised_squares(self) -> Matrix:
        """``xi^T C^-1 xi`` of each, (N,)."""
        whitened = np.linalg.solve(self.covariances, self.errors[:, :, None])[:, :, 0]
        return np.asarray((self.errors * whitened).sum(1))

    def figures(self) -> dict[str, float]:
        """Ratios, 1 for an honest covariance, and the share of errors within the 95 % region."""
        squares = self.normalised_squares
        deviations = np.sqrt(np.diagonal(self.covariances, axis1=1, axis2=2))
        axes = np.sqrt(((self.errors / deviations) ** 2).mean(0))
        return {
            "count": float(len(squares)),
            "mean": float(squares.mean()) / DEGREES,
            "median": float(np.median(squares)) / 5.348,  # that of chi-squared
            "within_95": float((squares < CHI2_95).mean()),
            **dict(zip(AXES, axes.tolist(), strict=True)),
        }


class ErrorRecorder:
    """An observer of a replay that keeps motions, poses, their covariances, and the truth of them."""

    def __init__(self) -> None:
        self._motions: list[tuple[Matrix, Matrix, Matrix]] = []  # true, estimated, covariance
        self._poses: list[tuple[Matrix, Matrix, Matrix]] = []
        self._truth: dict[int, Matrix] = {}

    def __call__(self, step: Step) -> None:
        estimate, T_true = step.estimate, step.frame.T_world_cam
        if T_true is None:
            return
        T_true_prev = None if estimate.prev_stamp_ns is None else self._truth.get(estimate.prev_stamp_ns)
        if not self._truth:
            self._start = (T_true, estimate.T_world_cam)
        self._truth[estimate.stamp_ns] = T_true
        start, start_estimate = self._start
        self._poses.append(
            (
                inverse(start) @ T_true,
                inverse(start_estimate) @ estimate.T_world_cam,
                estimate.pose_covariance,
            )
        )
        moving = estimate.status in (Status.TRACKING, Status.DEGRADED)
        if moving and T_true_prev is not None and estimate.T_prev_cur is not None:
            assert estimate.covariance is not None
            self._motions.append((inverse(T_true_prev) @ T_true, estimate.T_prev_cur, estimate.covariance))

    def scale(self) -> float:
        """The factor that fits the estimated steps to the true ones best (median of their ratios).

        Raises:
            DataError: no step has ground truth.
        """
        lengths = np.array([[np.linalg.norm(T[:3, 3]) for T in motion[:2]] for motion in self._motions])
        if not len(lengths) or not (lengths > 0).all(1).any():
            raise DataError("The recording has no ground truth for two frames in a row.")
        usable = lengths[(lengths > 0).all(1)]
        return float(np.exp(np.median(np.log(usable[:, 0] / usable[:, 1]))))

    def steps(self, scale: float = 1.0) -> Calibration:
        """The steps' calibration, their lengths and covariances multiplied by a scale."""
        return _calibration(self._motions, scale)

    def poses(self, scale: float = 1.0) -> Calibration:
        """The same of the poses, whose errors have added up since the first frame."""
        return _calibration(self._poses[1:], scale)


def _calibration(motions: list[tuple[Matrix, Matrix, Matrix]], scale: float) -> Calibration:
    errors, covariances = [], []
    for true, estimate, covariance in motions:
        stretched = estimate.copy()
        stretched[:3, 3] *= scale
        errors.append(se3_log(true @ inverse(stretched)))
        covariances.append(scaled(covariance, scale))
    return Calibration(
        np.array(errors).reshape(-1, DEGREES), np.array(covariances).reshape(-1, DEGREES, DEGREES)
    )
