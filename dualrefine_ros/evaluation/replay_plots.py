"""Pictures of a replay: where the camera went, how fast the engine was, how its iterations settled."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes

from dualrefine_ros.evaluation.alignment import Alignment
from dualrefine_ros.evaluation.odometry_metrics import OdometryResult
from dualrefine_ros.evaluation.odometry_plots import plot_odometry
from dualrefine_ros.evaluation.plots import COLOURS, new_axes, new_figure, plot_trajectories, save
from dualrefine_ros.evaluation.replay import EngineLog
from dualrefine_ros.geometry.trajectory import Trajectory

STACK = (*COLOURS, "#F0E442", "#999999")  # a stage each


def plot_replay(
    folder: Path,
    trajectory: Trajectory,
    results: Mapping[str, OdometryResult],
    engine_log: EngineLog,
    title: str,
) -> None:
    """Draw everything there is to a replay.

    Args:
        folder: of the results.
        results: by alignment; the scale is the one drawn, if it exists, as odometry starts where truth does.
        title: the recording and the weights.
    """
    drawn = results.get(Alignment.SCALE.value) or results.get(Alignment.NONE.value)
    if drawn is None:
        plot_trajectories(
            folder / "trajectory.png", {"estimate": trajectory}, title=f"Trajectory, top view: {title}"
        )
    else:
        fitted = "scale fitted" if drawn.alignment is Alignment.SCALE else "nothing fitted"
        ate = "" if drawn.ate_percent is None else f", ATE {drawn.ate_percent:.2g} %"  # the camera stood
        plot_odometry(folder, {"estimate": drawn}, f"{title}, {fitted}{ate}")
    _plot_engine(folder / "engine.png", engine_log, title)


def _plot_engine(path: Path, engine_log: EngineLog, title: str) -> None:
    """Time of each stage over frames, and the pose update of each iteration."""
    figure = new_figure(f"Engine: {title}", width=9.0, height=7.5)
    grid = figure.add_gridspec(2, 1)
    _plot_stages(new_axes(figure, grid[0], "frames replayed", "time of the stages [ms]"), engine_log)
    _plot_updates(new_axes(figure, grid[1], "refinement iteration", "pose update |ξ|"), engine_log)
    save(figure, path)


def _plot_stages(axes: Axes, engine_log: EngineLog) -> None:
    stages = list(dict.fromkeys(stage for row in engine_log.stages for stage in row))
    if not stages:
        return
    milliseconds = 1e3 * np.array([[row.get(stage, 0.0) for row in engine_log.stages] for stage in stages])
    axes.stackplot(np.arange(len(engine_log.stages)), milliseconds, labels=stages, colors=STACK, step="mid")
    # the first frame pays for starting up: it may leave the picture
    axes.set_ylim(0, 1.5 * np.max(milliseconds.sum(axis=0)[1:], initial=1e-3))
    axes.legend(loc="upper left", ncols=3)


def _plot_updates(axes: Axes, engine_log: EngineLog) -> None:
    columns = max((len(norms) for norms in engine_log.update_norms), default=0)
    norms = np.full((len(engine_log.update_norms), columns), np.nan)  # an iteration that did not run is NaN
    for row, ran in zip(norms, engine_log.update_norms, strict=True):
        row[: len(ran)] = ran
    norms[~np.isfinite(norms)] = np.nan
    iterations = 1 + np.flatnonzero(np.isfinite(norms).any(axis=0))
    if not len(iterations):
        axes.text(0.5, 0.5, "no pose updates", transform=axes.transAxes, ha="center", color="#666666")
        return
    low, median, high = np.nanpercentile(norms[:, iterations - 1], (10, 50, 90), axis=0)
    axes.fill_between(iterations, low, high, color=COLOURS[0], alpha=0.25, label="10 to 90 % of frames")
    axes.plot(iterations, median, "o-", color=COLOURS[0], label="median")
    axes.set_yscale("log")
    axes.set_xticks(iterations)
    axes.legend()
