"""Pictures of a replay: where the camera went, how fast the engine was, how its iterations settled."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from dualrefine_ros.evaluation.alignment import Alignment
from dualrefine_ros.evaluation.odometry_metrics import OdometryResult
from dualrefine_ros.evaluation.odometry_plots import plot_odometry
from dualrefine_ros.evaluation.plots import COLOURS, new_axes, new_figure, plot_trajectories, save
from dualrefine_ros.evaluation.replay import EngineLog
from dualrefine_ros.geometry.trajectory import Trajectory


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
        plot_odometry(folder, {"estimate": drawn}, f"{title}, {fitted}")
    _plot_engine(folder / "engine.png", engine_log, title)


def _plot_engine(path: Path, engine_log: EngineLog, title: str) -> None:
    """Time of each stage over frames, and the pose update of each iteration."""
    figure = new_figure(f"Engine: {title}", width=9.0, height=7.5)
    grid = figure.add_gridspec(2, 1)
    time_axes = new_axes(figure, grid[0], "frames replayed", "time of the stages [ms]")
    stages = list(dict.fromkeys(stage for row in engine_log.stages for stage in row))
    milliseconds = 1e3 * np.array([[row.get(stage, 0.0) for row in engine_log.stages] for stage in stages])
    frames = np.arange(len(engine_log.stages))
    if stages:
        time_axes.stackplot(frames, milliseconds, labels=stages, colors=COLOURS, step="mid")
        # the first frame pays for starting up: it may leave the picture
        time_axes.set_ylim(0, 1.2 * np.max(milliseconds.sum(axis=0)[1:], initial=1e-3))
        time_axes.legend(loc="upper left", ncols=3)
    norm_axes = new_axes(figure, grid[1], "refinement iteration", "pose update |ξ|")
    refined = [norms for norms in engine_log.update_norms if len(norms)]
    if refined:
        # an iteration that did not run is NaN
        norms = np.array(
            [np.pad(n, (0, max(map(len, refined)) - len(n)), constant_values=np.nan) for n in refined]
        )
        iterations = np.arange(1, norms.shape[1] + 1)
        ran = np.isfinite(norms).any(axis=0)
        low, median, high = np.nanpercentile(norms[:, ran], (10, 50, 90), axis=0)
        norm_axes.fill_between(
            iterations[ran], low, high, color=COLOURS[0], alpha=0.25, label="10 to 90 % of frames"
        )
        norm_axes.plot(iterations[ran], median, "o-", color=COLOURS[0], label="median")
        norm_axes.set_yscale("log")
        norm_axes.set_xticks(iterations)
        norm_axes.legend()
    else:
        norm_axes.text(0.5, 0.5, "no refinement", transform=norm_axes.transAxes, ha="center", color="#666666")
    save(figure, path)
