"""Pictures say what they show: equal axes, units, a marked start, every result in the legend."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from matplotlib.figure import Figure

from dualrefine_ros.evaluation.alignment import Alignment
from dualrefine_ros.evaluation.odometry_metrics import evaluate_odometry
from dualrefine_ros.evaluation.odometry_plots import plot_odometry
from dualrefine_ros.evaluation.plots import line_look, plot_trajectories, top_view_axes
from dualrefine_ros.geometry.trajectory import Trajectory


def trajectory(positions: np.ndarray, first: int = 0, stamps: bool = False) -> Trajectory:
    poses = np.tile(np.eye(4), (len(positions), 1, 1))
    poses[:, :3, 3] = positions
    frames = first + np.arange(len(positions))
    return Trajectory(poses, frames * 100_000_000 if stamps else None, frames)


def curve(count: int, scale: float = 1.0) -> np.ndarray:
    """A bend in the x-z plane, 1 m a step."""
    angle = np.linspace(0, 1.5, count)
    radius = scale * count / 1.5
    return np.column_stack([radius * (1 - np.cos(angle)), 0.01 * angle, radius * np.sin(angle)])


@pytest.fixture
def figures(monkeypatch: pytest.MonkeyPatch) -> dict[str, Figure]:
    """The figures saved, by file name; they are saved all the same."""
    saved: dict[str, Figure] = {}
    savefig = Figure.savefig

    def spy(self: Figure, path: Path, **options: object) -> None:
        saved[Path(path).name] = self
        savefig(self, path, **options)

    monkeypatch.setattr(Figure, "savefig", spy)
    return saved


def labels(figure: Figure) -> list[str]:
    return [text.get_text() for axes in figure.axes if axes.get_legend() for text in axes.get_legend().texts]


def test_top_view_leaves_out_the_vertical() -> None:
    assert top_view_axes(curve(50)) == (0, 2)  # camera axes: y is down
    assert top_view_axes(curve(50)[:, [2, 0, 1]]) == (0, 1)  # vehicle axes: z is up
    assert top_view_axes(np.zeros((1, 3))) == (0, 2)


def test_names_that_are_no_text_are_drawn(tmp_path: Path, figures: dict[str, Figure]) -> None:
    names = ("10 $ and $\\frac", "a$1$", "Stra\udcdfe")
    truth = trajectory(curve(50))
    results = {name: evaluate_odometry(truth, truth, Alignment.NONE) for name in names}
    plot_odometry(tmp_path, results, f"title $\\q$ {names[2]}")
    assert len(figures) == 3
    shown = labels(figures["trajectory.png"])
    assert [text.replace(r"\$", "$") for text in shown[1:4]] == [*names[:2], r"Stra\udcdfe"]


def test_results_keep_apart() -> None:
    assert len({line_look(number) for number in range(24)}) == 24


def test_trajectory_picture(figures: dict[str, Figure], tmp_path: Path) -> None:
    estimates = {"ours": trajectory(curve(50, 0.9)), "theirs": trajectory(curve(50, 1.2))}
    plot_trajectories(tmp_path / "t.png", estimates, trajectory(curve(50)), "Clip, RANDOM WEIGHTS")
    (axes,) = figures["t.png"].axes
    assert axes.get_aspect() == 1
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("x [m]", "z [m]")
    assert figures["t.png"].get_suptitle() == "Clip, RANDOM WEIGHTS"
    assert labels(figures["t.png"]) == ["ground truth", "ours", "theirs", "start"]
    start = axes.lines[-1]
    np.testing.assert_allclose(np.ravel(start.get_data()), [0, 0], atol=1e-9)
    assert cv2.imread(str(tmp_path / "t.png")).std() > 5


def test_odometry_pictures_put_results_where_they_began(figures: dict[str, Figure], tmp_path: Path) -> None:
    truth = trajectory(curve(300), stamps=True)
    results = {
        "whole": evaluate_odometry(trajectory(curve(300), stamps=True), truth, Alignment.NONE),
        "late": evaluate_odometry(trajectory(curve(300)[200:], 200, True), truth, Alignment.NONE),
    }
    files = plot_odometry(tmp_path / "plots", results, "two")
    assert sorted(figures) == sorted(path.name for path in files)
    (axes,) = figures["trajectory.png"].axes
    late = next(line for line in axes.lines if line.get_label() == "late")
    np.testing.assert_allclose(late.get_xydata(), curve(300)[200:, [0, 2]], atol=1e-6)

    along, translation, rotation = figures["error_over_length.png"].axes
    assert along.get_ylabel() == "position error [m]"
    assert translation.get_ylabel() == "translation error [%]"
    assert rotation.get_ylabel() == "rotation error [deg/100 m]"
    np.testing.assert_array_equal(translation.lines[0].get_xdata(), [100, 200])
    (drift,) = figures["scale_drift.png"].axes
    assert drift.get_xlabel().endswith("[s]")


def test_a_short_sequence_says_so_in_the_picture(figures: dict[str, Figure], tmp_path: Path) -> None:
    truth = trajectory(curve(20))
    plot_odometry(tmp_path, {"short": evaluate_odometry(truth, truth, Alignment.NONE)}, "short")
    _, translation, rotation = figures["error_over_length.png"].axes
    assert [axes.texts[0].get_text() for axes in (translation, rotation)] == ["no segment of 100 m"] * 2
    assert figures["scale_drift.png"].axes[0].get_xlabel() == "frame"
