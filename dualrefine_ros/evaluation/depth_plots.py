"""Pictures of depth errors."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from matplotlib.colors import LinearSegmentedColormap, LogNorm

from dualrefine_ros.evaluation.depth_metrics import DepthProtocol
from dualrefine_ros.evaluation.depth_samples import DepthResult
from dualrefine_ros.evaluation.plots import new_figure, save

MAX_SHOWN_ERROR = 30.0  # % of the true depth
DEPTH_TICKS = (2, 5, 10, 20, 40, 80)  # metres; the first and last bound the colours
# bright at both ends: the points lie on a darkened image
NEAR_TO_FAR = LinearSegmentedColormap.from_list("near_to_far", ["#D55E00", "white", "#56B4E9"])


def plot_depth_error(path: Path, result: DepthResult, protocol: DepthProtocol, title: str) -> None:
    """Draw the predicted depth, and over the image the error of each pixel that counts.

    Args:
        path: of the image file.
        title: which image, by which weights.
    """
    counts = protocol.counts(result.truth)
    rows, columns = np.nonzero(counts)
    error = 100 * (result.compared[counts] / result.truth[counts] - 1)
    figure = new_figure(title, width=11.0, height=7.2)
    depth_axes, error_axes = figure.subplots(2, 1, sharex=True, sharey=True)

    norm = LogNorm(DEPTH_TICKS[0], DEPTH_TICKS[-1])
    picture = depth_axes.imshow(result.compared, cmap="viridis_r", norm=norm)
    bar = figure.colorbar(picture, ax=depth_axes, label="predicted depth [m]", extend="both", pad=0.01)
    bar.set_ticks(DEPTH_TICKS, labels=[str(metres) for metres in DEPTH_TICKS], minor=False)
    bar.minorticks_off()
    depth_axes.set_title("prediction, as compared", fontsize="medium")

    if result.image is not None:
        error_axes.imshow(result.image.mean(axis=2), cmap="gray", vmax=400)  # dark, behind the points
    else:
        error_axes.set_facecolor("black")
    points = error_axes.scatter(
        columns, rows, c=error, s=2.0, cmap=NEAR_TO_FAR, vmin=-MAX_SHOWN_ERROR, vmax=MAX_SHOWN_ERROR, lw=0
    )
    label = "(predicted - true) / true [%]\norange: too near, blue: too far"
    figure.colorbar(points, ax=error_axes, label=label, extend="both", pad=0.01)
    errors = result.errors
    figures = f"abs_rel {errors.abs_rel:.3f}, rmse {errors.rmse:.2f} m, a1 {errors.a1:.3f}"
    error_axes.set_title(f"{figures} over {errors.pixels} pixels", fontsize="medium")
    for axes in (depth_axes, error_axes):
        axes.set_xlabel("u [px]")
        axes.set_ylabel("v [px]")
        axes.label_outer()
    save(figure, path)
