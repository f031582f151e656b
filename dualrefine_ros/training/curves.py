"""The curves of a run, drawn from its CSV log; a run that went on after an interruption is one curve."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import numpy as np
import numpy.typing as npt
from lightning.pytorch.utilities import rank_zero_only
from matplotlib.axes import Axes

from dualrefine_ros.evaluation.plots import line_look, new_axes, new_figure, save

# title of each picture: names of the log's columns
CURVES = {
    "teacher, reprojection": ("train/teacher_reproj_0", "train/teacher_reproj_2", "train/teacher_reproj_3"),
    "refined, reprojection": ("train/refined_reproj_0", "train/refined_reproj_2", "train/pose_loss"),
    "consistency [units of depth]": ("train/refined_consistency_0", "train/refined_consistency_2"),
    "scale of neighbouring depths": ("train/scale_consistency",),
    "learning rate": ("train/learning_rate",),
    "validation, ATE [% of length]": ("val/ate_percent", "val/teacher_ate_percent"),
    "validation, rotation [deg/frame]": ("val/rotation_deg", "val/teacher_rotation_deg"),
    "validation, scale spread": ("val/scale_spread", "val/teacher_scale_spread"),
    "validation, depth AbsRel": ("val/abs_rel", "val/teacher_abs_rel"),
}
COLUMNS = 4
SMOOTHING = 15  # points of the log under a running mean
EXACT = ("train/learning_rate",)  # has no noise to smooth

Curve = dict[int, float]  # step -> value
Array = npt.NDArray[np.float64]


class RunCurves(pl.Callback):
    """Draws ``curves.png`` after every validation and at the end."""

    @rank_zero_only
    def on_validation_end(self, trainer: pl.Trainer, pl_module: Any) -> None:
        """So far."""
        plot_curves(Path(trainer.default_root_dir))

    @rank_zero_only
    def on_train_end(self, trainer: pl.Trainer, pl_module: Any) -> None:
        """In the end."""
        plot_curves(Path(trainer.default_root_dir))


def read_curves(run: Path) -> dict[str, Curve]:
    """All columns of a run's CSV logs; where two parts of a run overlap, the later one counts."""
    curves: dict[str, Curve] = {}
    logs = sorted(run.glob("csv/version_*/metrics.csv"), key=lambda p: int(p.parent.name.split("_")[1]))
    for log in logs:
        with open(log, newline="", encoding="ascii") as file:
            for row in csv.DictReader(file):
                for name, value in row.items():
                    if value and name not in ("step", "epoch"):
                        curves.setdefault(name, {})[int(row["step"])] = float(value)
    return curves


def plot_curves(run: Path) -> None:
    """Draw a run's curves to ``curves.png`` in its folder; nothing where there is no log yet."""
    curves = read_curves(run)
    drawn = {title: [n for n in names if n in curves] for title, names in CURVES.items()}
    drawn = {title: names for title, names in drawn.items() if names}
    if not drawn:
        return
    rows = -(-len(drawn) // COLUMNS)
    figure = new_figure(f"Training run {run.name}", width=5.0 * COLUMNS, height=3.6 * rows)
    cells = figure.add_gridspec(rows, COLUMNS)
    for number, (title, names) in enumerate(drawn.items()):
        axes = new_axes(figure, cells[number // COLUMNS, number % COLUMNS], "step", title)
        for index, name in enumerate(names):
            draw = _draw_exactly if name in EXACT else _draw
            draw(axes, curves[name], name.split("/")[1], line_look(index)[0])
        axes.legend()
    save(figure, run / "curves.png")


def _draw(axes: Axes, curve: Curve, label: str, colour: str) -> None:
    """A curve; a long one faintly, its running mean over it."""
    if len(curve) < 2 * SMOOTHING:
        _draw_exactly(axes, curve, label, colour)
        return
    steps, values = _arrays(curve)
    axes.plot(steps, values, color=colour, alpha=0.25, lw=0.8)
    mean = np.convolve(values, np.full(SMOOTHING, 1 / SMOOTHING), mode="valid")
    margin = SMOOTHING // 2
    axes.plot(steps[margin : margin + len(mean)], mean, color=colour, label=label)


def _draw_exactly(axes: Axes, curve: Curve, label: str, colour: str) -> None:
    marker = "." if len(curve) < 2 * SMOOTHING else ""
    axes.plot(*_arrays(curve), color=colour, label=label, marker=marker)


def _arrays(curve: Curve) -> tuple[Array, Array]:
    steps = sorted(curve)
    return np.array(steps, np.float64), np.array([curve[step] for step in steps])
