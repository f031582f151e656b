"""Compare trajectories with ground truth: KITTI t_err and r_err, ATE, RPE, and pictures of them.

Trajectories are TUM files (8 columns: stamp, position, quaternion), KITTI files (12 columns, a frame a
line; or 13, the frame number first) or folders written by `dualrefine replay`. Poses belong together by
stamp where both sides have stamps, else by frame number; frames may be missing.

  t_err    translation error, % of the path, mean over segments of 100, 200, ..., 800 m
  r_err    rotation error, degrees per 100 m, over the same segments
  ate      root mean square of the position errors, m
  rpe_m    mean error of the motion between consecutive poses, m
  rpe_deg  the same for its rotation, degrees

The JSON file holds these five keys, `align`, `frames`, `length_m`, `scale` and `note`, null standing for a
figure that does not exist; for several estimates it holds one such object under each one's name.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from dualrefine_ros.errors import ConfigError, DataError
from dualrefine_ros.evaluation.alignment import Alignment
from dualrefine_ros.evaluation.odometry_metrics import (
    MAX_STAMP_DIFFERENCE,
    OdometryResult,
    evaluate_odometry,
)
from dualrefine_ros.evaluation.output_files import write_json
from dualrefine_ros.evaluation.summary import TRAJECTORY, said_by, weights_of
from dualrefine_ros.frame import NANOSECONDS
from dualrefine_ros.geometry.trajectory import Trajectory, read_times, read_trajectory
from dualrefine_ros.tools.table import distinct_names, format_table

HELP = "score trajectories against ground truth"
MAX_SECONDS = 4e9  # a stamp of today moved by less stays within 64 bits of nanoseconds
COLUMNS = {  # figure: (heading, digits)
    "t_err": ("t_err [%]", 3),
    "r_err": ("r_err [deg/100m]", 3),
    "ate": ("ATE [m]", 3),
    "ate_percent": ("ATE [%]", 3),
    "rpe_m": ("RPE [m]", 4),
    "rpe_deg": ("RPE [deg]", 4),
    "scale_spread": ("spread", 3),
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of ``dualrefine evaluate odometry``."""
    parser.add_argument(
        "estimate", nargs="+", type=Path, metavar="ESTIMATE", help="trajectory file or replay folder"
    )
    parser.add_argument("--ground-truth", type=Path, required=True, metavar="FILE", help="true trajectory")
    parser.add_argument(
        "--align",
        choices=[alignment.value for alignment in Alignment],
        default=Alignment.SIMILARITY.value,
        help="what is fitted first: nothing, the scale (least squares from the first pose), a rigid motion "
        "(6dof) or a similarity (7dof, Umeyama); default 7dof, as a single camera sees no scale",
    )
    parser.add_argument(
        "--times",
        type=Path,
        metavar="FILE",
        help="stamps of the frames of KITTI files, a line each; default: times.txt beside the ground truth "
        "where the estimate has stamps and the ground truth has none",
    )
    parser.add_argument(
        "--time-offset",
        type=float,
        default=0.0,
        metavar="S",
        help="seconds to add to the stamps of the estimates",
    )
    parser.add_argument(
        "--max-time-difference",
        type=float,
        default=MAX_STAMP_DIFFERENCE,
        metavar="S",
        help=f"most seconds between two stamps of one moment (default {MAX_STAMP_DIFFERENCE:g})",
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures")
    parser.add_argument("--out", "--plot", type=Path, metavar="DIR", help="write pictures")


def run(args: argparse.Namespace) -> int:
    """Print the table; write the JSON file and the pictures that are asked for."""
    if not abs(args.time_offset) < MAX_SECONDS:
        raise ConfigError(f"--time-offset must be a number of seconds, not {args.time_offset}.")
    if not 0 <= args.max_time_difference < MAX_SECONDS:
        raise ConfigError(f"--max-time-difference must be 0 s or more, not {args.max_time_difference}.")
    alignment = Alignment(args.align)
    names = distinct_names(args.estimate)
    results, notes = {}, []
    for name, path in zip(names, args.estimate, strict=True):
        estimate, truth = _read_pair(path, args.ground_truth, args.times, args.time_offset)
        try:
            results[name] = evaluate_odometry(estimate, truth, alignment, args.max_time_difference)
        except DataError as error:
            raise DataError(f"{path} against {args.ground_truth}: {error}") from None
        notes += [f"{name}: {note}" for note in _notes(results[name], estimate, truth)]
    print(f"Ground truth {args.ground_truth}, alignment {alignment.value}\n")
    print("\n\n".join([_table(results), *notes]))
    if args.json:
        figures = {name: result.figures() for name, result in results.items()}
        write_json(args.json, figures if len(figures) > 1 else figures[names[0]])
    if args.out:
        # matplotlib takes a second to import: only who wants pictures waits for it
        from dualrefine_ros.evaluation.odometry_plots import plot_odometry

        weights = [weights_of(path) for path in args.estimate]
        labels = [f"{n} ({w})" if w else n for n, w in zip(names, weights, strict=True)]
        title = f"{args.ground_truth.name}, alignment {alignment.value}"
        for file in plot_odometry(args.out, dict(zip(labels, results.values(), strict=True)), title):
            print(f"wrote {file}")
    return 0


def _table(results: Mapping[str, OdometryResult]) -> str:
    header = ["estimate", *(heading for heading, _ in COLUMNS.values()), "scale", "poses", "length [m]"]
    rows = []
    for name, result in results.items():
        values = [(getattr(result, figure), digits) for figure, (_, digits) in COLUMNS.items()]
        figures = ["-" if value is None else f"{value:.{digits}f}" for value, digits in values]
        length = f"{result.truth.distances()[-1]:.1f}"
        rows.append([name, *figures, f"{result.similarity.scale:.4g}", str(len(result.estimate)), length])
    return format_table(header, rows)


def _read_pair(
    estimate_path: Path, truth_path: Path, times_path: Path | None, offset: float
) -> tuple[Trajectory, Trajectory]:
    """An estimate and the ground truth, with stamps on both where one has them and the times are known."""
    trajectory_path = _trajectory_file(estimate_path)
    estimate, truth = read_trajectory(trajectory_path), read_trajectory(truth_path)
    one_has_stamps = (estimate.stamps_ns is None) != (truth.stamps_ns is None)
    beside = truth_path.parent / "times.txt"
    if times_path is None and one_has_stamps and truth.stamps_ns is None and beside.is_file():
        times_path = beside
    if times_path is not None and one_has_stamps:
        times = read_times(times_path)
        estimate, truth = (_with_stamps(t, times, times_path) for t in (estimate, truth))
    if estimate.stamps_ns is not None:
        estimate = replace(estimate, stamps_ns=estimate.stamps_ns + round(offset * NANOSECONDS))
    elif offset:
        raise ConfigError(f"{trajectory_path} has no stamps that --time-offset could move.")
    return estimate, truth


def _trajectory_file(path: Path) -> Path:
    file = path / TRAJECTORY if path.is_dir() else path
    if path.is_dir() and not file.exists():
        raise DataError(f"{path} is no folder of a replay: there is no {TRAJECTORY} in it.")
    if file.name == TRAJECTORY and (of := said_by(file.parent, "trajectory_of")):
        raise DataError(
            f"{file} is the trajectory of {of}, in a vehicle's axes, not the camera's: see summary.json "
            "beside it for its figures, or compare one of dualrefine replay."
        )
    return file


def _notes(result: OdometryResult, estimate: Trajectory, truth: Trajectory) -> list[str]:
    """What the reader of the figures should know."""
    notes = [result.missing_figures() or ""]
    counts_lines = estimate.frames is not None and np.array_equal(estimate.frames, np.arange(len(estimate)))
    if counts_lines and estimate.stamps_ns is None and len(estimate) != len(truth):
        notes.append(
            f"the estimate has {len(estimate)} poses without frame numbers and the ground truth "
            f"{len(truth)}: line i was taken for frame i."
        )
    return [note for note in notes if note]


def _with_stamps(trajectory: Trajectory, times: npt.NDArray[np.int64], times_path: Path) -> Trajectory:
    if trajectory.stamps_ns is not None or trajectory.frames is None:
        return trajectory
    if trajectory.frames[-1] >= len(times):
        raise DataError(f"{times_path} has {len(times)} times, too few for frame {trajectory.frames[-1]}.")
    return replace(trajectory, stamps_ns=times[trajectory.frames])
