"""Pictures of trajectories and of their errors.

Colours are those of Okabe and Ito, which colour-blind readers tell apart. Figures are made without
pyplot: no window, no global state, usable from any thread.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.gridspec import SubplotSpec

from dualrefine_ros.geometry.trajectory import Trajectory

TRUTH_COLOUR = "#4d4d4d"
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00")
LINE_STYLES = ("-", "--", "-.", ":")
AXIS_NAMES = ("x", "y", "z")


def plot_trajectories(
    path: str | Path,
    trajectories: Mapping[str, Trajectory],
    truth: Trajectory | None = None,
    title: str = "Trajectory, top view",
) -> None:
    """Draw trajectories from above, with one scale on both axes and their start marked, to an image file.

    The vertical axis is taken to be y (camera axes) or z (vehicle axes), whichever moves less.

    Args:
        path: of the image; the suffix names the format.
        trajectories: by the name in the legend; positions in metres in one common frame.
        truth: ground truth in the same frame.
        title: should say which weights produced the trajectories.
    """
    reference = truth if truth is not None else next(iter(trajectories.values()))
    right, ahead = top_view_axes(reference.positions)
    figure = new_figure(title, width=8.0, height=7.0)
    cell = figure.add_gridspec(1, 1)[0]
    axes = new_axes(figure, cell, f"{AXIS_NAMES[right]} [m]", f"{AXIS_NAMES[ahead]} [m]")
    if truth is not None:
        _draw_path(axes, truth.positions, right, ahead, "ground truth", TRUTH_COLOUR, "-", 3.0)
    for number, (name, trajectory) in enumerate(trajectories.items()):
        _draw_path(axes, trajectory.positions, right, ahead, name, *line_look(number), 1.6)
    start = reference.positions[0]
    axes.plot(
        start[right],
        start[ahead],
        "o",
        ms=10,
        mfc="white",
        mec="black",
        mew=2,
        ls="",
        label="start",
        zorder=5,
    )
    axes.set_aspect("equal", adjustable="datalim")
    axes.legend()
    save(figure, path)


def top_view_axes(positions: npt.NDArray[np.float64]) -> tuple[int, int]:
    """The coordinates to draw right and up in a top view: x and z in camera axes, x and y in vehicle axes."""
    extent = np.ptp(positions, axis=0)
    return (0, 2) if extent[1] <= extent[2] else (0, 1)


def line_look(number: int) -> tuple[str, str]:
    """Colour and line style of the ``number``-th result: pairs repeat only after 24 of them."""
    return COLOURS[number % len(COLOURS)], LINE_STYLES[number // len(COLOURS) % len(LINE_STYLES)]


def _draw_path(
    axes: Axes,
    positions: npt.NDArray[np.float64],
    right: int,
    ahead: int,
    name: str,
    colour: str,
    style: str,
    width: float,
) -> None:
    axes.plot(positions[:, right], positions[:, ahead], color=colour, ls=style, lw=width, label=plain(name))
    axes.plot(positions[-1, right], positions[-1, ahead], "s", color=colour, ms=5)


def new_figure(title: str, width: float = 9.0, height: float = 5.0) -> Figure:
    """An empty figure of so many inches under a title."""
    figure = Figure(figsize=(width, height), layout="constrained")
    figure.suptitle(plain(title), wrap=True)
    return figure


def plain(name: str) -> str:
    """A name as matplotlib can draw it: names of files may hold formulas, and bytes that are no text."""
    return name.encode("utf-8", "backslashreplace").decode().replace("$", r"\$")


def new_axes(figure: Figure, cell: SubplotSpec, x_label: str, y_label: str) -> Axes:
    """Labelled axes with a grid in a cell of ``figure.add_gridspec``."""
    axes = figure.add_subplot(cell)
    axes.set_xlabel(x_label)
    axes.set_ylabel(y_label)
    axes.grid(True, color="#dddddd", lw=0.8)
    axes.set_axisbelow(True)
    return axes


def save(figure: Figure, path: str | Path) -> None:
    """Write a figure to an image file; the suffix names the format."""
    figure.savefig(path, dpi=120)
