"""How cost grows: with the network's input, with iterations, with the batch."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from dualrefine_ros.benchmark.cases import Case
from dualrefine_ros.benchmark.timing import alternate
from dualrefine_ros.errors import ConfigError
from dualrefine_ros.evaluation.plots import COLOURS, new_axes, new_figure, save
from dualrefine_ros.model.folding import folded
from dualrefine_ros.odometry import resolve_device

SIZES = ((96, 320), (128, 416), (192, 640), (288, 960))
ITERATIONS = (0, 1, 2, 4, 6, 9, 12)
BATCHES = (1, 2, 4)


@dataclass(frozen=True)
class Point:
    """One measurement of the network alone, images being tensors already.

    Args:
        height, width, iterations, batch: what was measured.
        ms: median, of the whole batch.
    """

    height: int
    width: int
    iterations: int
    batch: int
    ms: float


@dataclass(frozen=True)
class Scaling:
    """Three walks through the same middle; all else as in the case."""

    resolution: list[Point]
    iterations: list[Point]
    batch: list[Point]


@torch.inference_mode()
def measure_scaling(
    case: Case,
    repeats: int,
    progress: Callable[[Iterable[Point]], Iterable[Point]] = iter,
    sizes: tuple[tuple[int, int], ...] = SIZES,
    iterations: tuple[int, ...] = ITERATIONS,
    batches: tuple[int, ...] = BATCHES,
) -> Scaling:
    """Measure the network of a case, on its device and in its precision.

    Args:
        case: the middle.
        repeats: passes measured for each point.
        progress: wraps the points to measure, to show how far it is.
        sizes: (height, width) of the first walk.
        iterations, batches: of the second and third.

    Raises:
        ConfigError: the case is one of onnxruntime.
    """
    if case.backend != "torch":
        raise ConfigError("ONNX graphs are of one size and take one image: measure scaling with torch.")
    config = case.model().config
    middle = Point(config.height, config.width, case.iterations, 1, 0.0)
    walks = (
        [replace(middle, height=height, width=width) for height, width in sizes],
        [replace(middle, iterations=count) for count in iterations],
        [replace(middle, batch=count) for count in batches],
    )
    points = [point for walk in walks for point in walk]
    done = [_measured(case, point, repeats) for point in progress(points)]
    first, second = len(sizes), len(sizes) + len(iterations)
    return Scaling(done[:first], done[first:second], done[second:])


def _measured(case: Case, point: Point, repeats: int) -> Point:
    device = resolve_device(case.device, torch.cuda.is_available())
    model = folded(replace(case, height=point.height, width=point.width).model()).to(device)
    images = torch.rand(2, point.batch, 3, point.height, point.width).to(device)
    f = 0.58 * point.width
    intrinsics = torch.tensor([[f, f, point.width / 2, point.height / 2]]).repeat(point.batch, 1).to(device)
    with case.autocast(device):
        prev = model.encode(images[0]).matching

    def frame() -> object:
        with case.autocast(device):
            cur, T = model.encode(images[1]), model.teacher_pose(images[1], images[0])
            return model.disparity(model.refine(cur, prev, T, intrinsics, point.iterations))

    alternate([frame], 1, device)
    (measured,) = alternate([frame], repeats, device)
    return replace(point, ms=measured.median_ms)


def plot_scaling(path: Path, scaling: Scaling, title: str) -> None:
    """Draw the three walks; cost per image for the batch."""
    figure = new_figure(f"Cost of the network: {title}", width=12.0, height=4.0)
    grid = figure.add_gridspec(1, 3)
    walks = (
        ("network input [1000 pixels]", "ms", [(p.height * p.width / 1e3, p.ms) for p in scaling.resolution]),
        ("iterations", "ms", [(float(p.iterations), p.ms) for p in scaling.iterations]),
        ("batch", "ms per image", [(float(p.batch), p.ms / p.batch) for p in scaling.batch]),
    )
    for number, (x_label, y_label, line) in enumerate(walks):
        axes = new_axes(figure, grid[number], x_label, y_label)
        axes.plot(*zip(*line, strict=True), "o-", color=COLOURS[number])
        axes.set_ylim(bottom=0)
    save(figure, path)
