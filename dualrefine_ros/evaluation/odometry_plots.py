"""Pictures of odometry errors: along the way, over segment lengths, and the drift of the scale."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes

from dualrefine_ros.evaluation.odometry_metrics import (
    SEGMENT_LENGTHS,
    OdometryResult,
    local_scale,
    position_errors,
)
from dualrefine_ros.evaluation.output_files import make_folder
from dualrefine_ros.evaluation.plots import line_look, new_axes, new_figure, plain, plot_trajectories, save
from dualrefine_ros.geometry.trajectory import Trajectory


def plot_odometry(folder: Path, results: Mapping[str, OdometryResult], title: str) -> list[Path]:
    """Draw results against one ground truth side by side.

    Args:
        folder: is made; receives ``trajectory.png``, ``error_over_length.png`` and ``scale_drift.png``.
        results: by the name in the legends, at least one.
        title: what is compared, by which weights.

    Returns:
        The files written.

    Raises:
        ConfigError: the folder cannot be made.
    """
    make_folder(folder)
    files = [folder / name for name in ("trajectory.png", "error_over_length.png", "scale_drift.png")]
    longest = max(results.values(), key=lambda result: len(result.truth))
    estimates = {name: _in_world(result.estimate, result) for name, result in results.items()}
    plot_trajectories(
        files[0], estimates, _in_world(longest.truth, longest), f"Trajectory, top view: {title}"
    )
    _plot_errors(files[1], results, title)
    _plot_scale_drift(files[2], results, title)
    return files


def _plot_errors(path: Path, results: Mapping[str, OdometryResult], title: str) -> None:
    figure = new_figure(f"Error over length: {title}", height=8.0)
    grid = figure.add_gridspec(2, 2)
    along = new_axes(figure, grid[0, :], "distance travelled (ground truth) [m]", "position error [m]")
    for number, (name, result) in enumerate(results.items()):
        colour, style = line_look(number)
        errors = position_errors(result.estimate, result.truth)
        along.plot(result.truth.distances(), errors, color=colour, ls=style, label=plain(name))
    along.set_ylim(bottom=0)
    along.legend()
    _plot_segments(
        new_axes(figure, grid[1, 0], "segment length [m]", "translation error [%]"), results, "t_err"
    )
    _plot_segments(
        new_axes(figure, grid[1, 1], "segment length [m]", "rotation error [deg/100 m]"), results, "r_err"
    )
    save(figure, path)


def _plot_segments(axes: Axes, results: Mapping[str, OdometryResult], figure_of_merit: str) -> None:
    axes.set_xlim(SEGMENT_LENGTHS[0] - 50, SEGMENT_LENGTHS[-1] + 50)
    highest = 0.0
    for number, result in enumerate(results.values()):
        of_length = getattr(result.segments, figure_of_merit)
        known = {length: of_length(length) for length in SEGMENT_LENGTHS if of_length(length) is not None}
        colour, style = line_look(number)
        axes.plot(list(known), list(known.values()), marker="o", color=colour, ls=style)
        highest = max([highest, *known.values()])
    axes.set_ylim(0, 1.1 * highest or 1.0)
    if all(result.t_err is None for result in results.values()):
        axes.text(
            0.5,
            0.5,
            f"no segment of {SEGMENT_LENGTHS[0]} m",
            transform=axes.transAxes,
            ha="center",
            color="#666666",
        )


def _plot_scale_drift(path: Path, results: Mapping[str, OdometryResult], title: str) -> None:
    figure = new_figure(f"Scale over time: {title}")
    axes = new_axes(figure, figure.add_gridspec(1, 1)[0], "frame", "estimated / true displacement")
    axes.axhline(1.0, color="black", lw=1)
    for number, (name, result) in enumerate(results.items()):
        colour, style = line_look(number)
        rows, ratios = local_scale(result)
        if result.truth.stamps_ns is not None:
            axes.set_xlabel("time since the first common frame [s]")
            times = result.truth.stamps - result.truth.stamps[0]
        else:
            times = np.asarray(result.truth.frames)
        axes.plot(times[rows], ratios, color=colour, ls=style, label=plain(name))
    axes.legend()
    save(figure, path)


def _in_world(trajectory: Trajectory, result: OdometryResult) -> Trajectory:
    """Results may begin at different frames: put them back where they began."""
    return replace(trajectory, poses=result.T_world_first @ trajectory.poses)
