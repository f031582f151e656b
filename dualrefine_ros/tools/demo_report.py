"""What the demo leaves behind: pictures, a trajectory and a summary."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib.colors import LogNorm

from dualrefine_ros.errors import DataError
from dualrefine_ros.evaluation.alignment import Alignment
from dualrefine_ros.evaluation.odometry_metrics import OdometryResult, evaluate_odometry
from dualrefine_ros.evaluation.plots import new_figure, plot_trajectories, save
from dualrefine_ros.evaluation.summary import SUMMARY, TRAJECTORY
from dualrefine_ros.frame import Frame
from dualrefine_ros.geometry.trajectory import Trajectory, write_tum
from dualrefine_ros.ros.base_odometry import Matrix
from dualrefine_ros.tools.demo_player import Recording

TRAJECTORY_PICTURE, DEPTH_PICTURE = "trajectory.png", "depth.png"
FILES = (TRAJECTORY_PICTURE, DEPTH_PICTURE, TRAJECTORY, SUMMARY)
MILLISECONDS = 1e3


def write_results(
    folder: Path,
    recording: Recording,
    truth: Trajectory | None,
    T_base_cam: Matrix,
    title: str,
    facts: dict[str, Any],
) -> dict[str, Any]:
    """Write everything there is to show of a recording, finished or not; returns the summary.

    Args:
        folder: exists.
        recording: of the base.
        truth: of the camera, where the clip has it.
        T_base_cam: (4, 4), moves the truth to the base.
        title: clip and weights, for the pictures.
        facts: go into the summary first.
    """
    summary = {**facts, **_counts(recording)}
    if summary["frames_dropped"] and facts.get("complete"):  # else it may be the one in hand
        title += f", {summary['frames_dropped']} of {summary['frames_in']} frames dropped"
    if recording.poses:
        trajectory = recording.trajectory()
        write_tum(folder / TRAJECTORY, trajectory)
        summary["against_ground_truth"] = _draw_trajectory(
            folder / TRAJECTORY_PICTURE, trajectory, truth and move_to_base(truth, T_base_cam), title
        )
    if recording.sheet:
        sheet = recording.sheet[1:] or recording.sheet
        draw_depth_sheet(folder / DEPTH_PICTURE, sheet, title, facts["scale"])
    (folder / SUMMARY).write_text(json.dumps(summary, indent=2) + "\n", encoding="utf-8")
    return summary


def _counts(recording: Recording) -> dict[str, Any]:
    latencies = MILLISECONDS * np.array(list(recording.latencies.values()) or [np.nan])
    median, high = (round(float(v), 1) for v in np.percentile(latencies, (50, 95)))
    answered = len(recording.latencies)
    return {
        "frames_in": len(recording.sent),
        "frames_processed": answered,
        "frames_dropped": len(recording.sent) - answered,
        "depth_images": len(recording.depth_stamps),
        "latency_ms": {"median": median, "p95": high} if answered else None,
    }


def move_to_base(camera: Trajectory, T_base_cam: Matrix) -> Trajectory:
    """The trajectory of the base that carries a camera, as odometry sees it: from where it began."""
    poses = T_base_cam @ camera.relative_to_first().poses @ np.linalg.inv(T_base_cam)
    return replace(camera, poses=poses)


def _draw_trajectory(
    path: Path, trajectory: Trajectory, truth: Trajectory | None, title: str
) -> dict[str, Any] | None:
    """Draw the estimate, laid on the ground truth where that is possible; its figures against it."""
    result = _compare(trajectory, truth)
    if result is None:
        plot_trajectories(path, {"odometry": trajectory}, truth, f"{title}\ntop view, not aligned")
        return None
    name = f"odometry, aligned (7 DoF, scale {result.similarity.scale:.3g})"
    ate = f"position error {result.ate:.1f} m RMS over {result.truth.distances()[-1]:.0f} m"
    plot_trajectories(path, {name: result.estimate}, result.truth, f"{title}\ntop view, {ate}")
    return result.figures()


def _compare(trajectory: Trajectory, truth: Trajectory | None) -> OdometryResult | None:
    if truth is None:
        return None
    try:
        return evaluate_odometry(trajectory, truth, Alignment.SIMILARITY)
    except DataError:  # too few poses in common, or no motion that a scale could be fitted to
        return None


def draw_depth_sheet(
    path: Path, sheet: Sequence[tuple[Frame, npt.NDArray[np.float32]]], title: str, scale: str
) -> None:
    """Draw frames beside their depth, near bright and far dark, with one colour scale for all.

    Args:
        path: of the picture.
        sheet: frames with their depth (H, W) in metres, NaN where unknown.
        title: clip and weights.
        scale: where it comes from.
    """
    height, width = sheet[0][1].shape
    picture_width = 6.0  # inches
    row_height = picture_width * height / width
    figure = new_figure(f"{title}\nframes and their depth", width=13.5, height=1.6 + row_height * len(sheet))
    axes = figure.subplots(len(sheet), 2, squeeze=False)
    near, far = _range(np.concatenate([depth[np.isfinite(depth)] for _, depth in sheet]))
    norm = LogNorm(near, far)
    for (left, right), (frame, depth) in zip(axes, sheet, strict=True):
        left.imshow(frame.image)
        left.set_ylabel(f"{frame.stamp - sheet[0][0].stamp:.1f} s")
        picture = right.imshow(depth, cmap="magma_r", norm=norm)
        for cell in (left, right):
            cell.set_xticks([])
            cell.set_yticks([])
    bar = figure.colorbar(picture, ax=axes[:, 1], shrink=min(1.0, 2.5 / len(sheet)), pad=0.02)
    bar.set_label(f"depth [m], scale {scale}")
    bar.ax.invert_yaxis()
    ticks = round_numbers(near, far)
    bar.set_ticks(ticks, labels=[f"{tick:.3g}" for tick in ticks])
    bar.minorticks_off()
    save(figure, path)


def round_numbers(near: float, far: float) -> list[float]:
    """1, 2 and 5 times powers of ten between two depths; the depths themselves where there are too few."""
    decades = range(math.floor(math.log10(near)), math.ceil(math.log10(far)) + 1)
    ticks = [digit * 10.0**decade for decade in decades for digit in (1, 2, 5)]
    within = [tick for tick in ticks if near <= tick <= far]
    return within if len(within) > 1 else [near, far]


def _range(depths: npt.NDArray[np.float32]) -> tuple[float, float]:
    """What the colours span: most of the depths, and something where there is none or but one."""
    if not len(depths):
        return 1.0, 10.0
    near, far = (float(depth) for depth in np.percentile(depths, (1, 99)))
    return near, max(far, 1.01 * near)
