"""What a network in training is worth: it drives through a recording as a robot's would."""

from __future__ import annotations

import logging
import math
from copy import deepcopy
from dataclasses import asdict, dataclass

from dualrefine_ros.data.source import Source
from dualrefine_ros.errors import DataError
from dualrefine_ros.evaluation.alignment import Alignment
from dualrefine_ros.evaluation.depth_metrics import DepthErrors, evaluate_depth, mean_errors
from dualrefine_ros.evaluation.odometry_metrics import SEGMENT_LENGTHS, evaluate_odometry
from dualrefine_ros.evaluation.replay import Step, replay
from dualrefine_ros.geometry.trajectory import Trajectory
from dualrefine_ros.model import DualRefine
from dualrefine_ros.odometry import OdometryConfig, VisualOdometry
from dualrefine_ros.odometry_config import check_iterations
from dualrefine_ros.training.recipe import Phase

log = logging.getLogger(__name__)

Figures = dict[str, float]


@dataclass(frozen=True)
class ValidationConfig:
    """How validation recordings are driven through.

    Raises:
        ConfigError: the number of iterations is out of range.
    """

    iterations: int = 6  # of refinement; the teacher alone is measured beside it
    precision: str = "float32"  # of the convolutions: float32, bfloat16, float16
    shown: tuple[str, ...] = ("ate_percent", "teacher_ate_percent", "abs_rel")  # figures in the progress bar

    def __post_init__(self) -> None:
        check_iterations(self.iterations)


class DepthObserver:
    """Compares the depth of the frames whose true depth is known."""

    def __init__(self) -> None:
        self.known = 0  # frames
        self.errors: list[DepthErrors] = []

    def __call__(self, step: Step) -> None:
        """One frame."""
        if step.frame.depth is None:
            return
        self.known += 1
        try:
            self.errors.append(evaluate_depth(step.estimate.depth, step.frame.depth)[0])
        except DataError:  # no pixel to compare
            return

    def figures(self) -> Figures:
        """The depth figures of :func:`validate`; none where no true depth is known."""
        if not self.known:
            return {}
        errors = asdict(mean_errors(self.errors)) if self.errors else {}
        return {name: errors.get(name, math.nan) for name in ("abs_rel", "a1")}


def validate(
    model: DualRefine, source: Source, config: ValidationConfig, phase: Phase, device: str
) -> Figures:
    """Figures of a recording; those of the teacher alone are named ``teacher_*``.

    Odometry, where the recording has poses, after a 7-DoF alignment: ``ate_percent`` of the length, ``t_err``
    (%), ``rotation_deg`` a frame, ``scale_spread`` (std over mean of estimated over true step). Depth, where
    it is known, scaled by the median: ``abs_rel``, ``a1``. A network that gets lost, or a camera that truly
    stands still, makes them NaN. While only the teacher is trained there is nothing refined to measure.
    """
    engine_model = deepcopy(model)  # the engine may change it to its own ends
    teacher = _drive(engine_model, source, 0, config, device)
    figures = {f"teacher_{name}": value for name, value in teacher.items()}
    if phase is Phase.TEACHER:
        return figures
    return figures | _drive(engine_model, source, config.iterations, config, device)


def _drive(
    model: DualRefine, source: Source, iterations: int, config: ValidationConfig, device: str
) -> Figures:
    odometry = VisualOdometry(
        model, OdometryConfig(iterations=iterations, device=device, precision=config.precision)
    )
    depth = DepthObserver()
    trajectory: Trajectory | None = None
    try:
        trajectory = replay(source, odometry, observers=[depth])
    except DataError as error:
        log.warning("%s cannot be driven through: %s", source.name, error)
    figures: Figures = {}
    if source.ground_truth is not None:
        figures |= odometry_figures(source.name, trajectory, source.ground_truth)
    return figures | depth.figures()


def odometry_figures(name: str, estimate: Trajectory | None, truth: Trajectory) -> Figures:
    """The odometry figures of :func:`validate`; not numbers where there is nothing to compare."""
    names = ["ate_percent", "rotation_deg", "scale_spread"]
    if truth.distances()[-1] > SEGMENT_LENGTHS[0]:
        names.append("t_err")
    figures = dict.fromkeys(names, math.nan)
    if estimate is None:
        return figures
    try:
        result = evaluate_odometry(estimate, truth, Alignment.SIMILARITY)
    except DataError as error:
        log.warning("%s has no odometry figures: %s", name, error)
        return figures
    found = {
        "ate_percent": result.ate_percent,
        "rotation_deg": result.rpe_deg,
        "scale_spread": result.scale_spread,
        "t_err": result.t_err,
    }
    return figures | {name: value for name, value in found.items() if value is not None}
