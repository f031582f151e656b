"""One row of the table: the engine and the reference, turn by turn on the same frames."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from statistics import median
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from dualrefine_ros.benchmark import reference
from dualrefine_ros.benchmark.cases import Case, moving_frames
from dualrefine_ros.benchmark.memory import SIDES, peak_memory_mib
from dualrefine_ros.benchmark.reference_engine import ReferenceEngine
from dualrefine_ros.benchmark.timing import Measured, alternate, speed_up
from dualrefine_ros.frame import Frame
from dualrefine_ros.model.backbones import normalise
from dualrefine_ros.model.disparity import UPSAMPLING
from dualrefine_ros.network_io import StageClock, network_image
from dualrefine_ros.observation import observe
from dualrefine_ros.odometry import VisualOdometry

WARM_UP = 2  # frames that are not counted: compilation, caches, the first without a predecessor


@dataclass(frozen=True)
class Timing:
    """Medians of one side.

    Args:
        frame_ms: from an image to depth and motion.
        frames_per_s: 1 / that.
        stages_ms: what that consists of.
        update_ms: one iteration of the refiner; None without iterations.
        peak_memory_mib: see :func:`~dualrefine_ros.benchmark.memory.peak_memory_mib`; None where unmeasured.
    """

    frame_ms: float
    frames_per_s: float
    stages_ms: dict[str, float]
    update_ms: float | None
    peak_memory_mib: float | None


@dataclass(frozen=True)
class Row:
    """A case and what was measured.

    Args:
        case: with the network's size filled in.
        engine, reference: the two sides.
        speed_up: median of reference / engine, of frames measured one after the other.
        update_speed_up: the same of one iteration; None without iterations.
        disparity_difference: between the two sides on one pair of frames, 99 % of the pixels differ by less.
        disparity_difference_max: of the worst pixel; with random weights some never settle.
        pose_difference: largest of a pose's entries.
        repeats: frames measured.
    """

    case: Case
    engine: Timing
    reference: Timing
    speed_up: float
    update_speed_up: float | None
    disparity_difference: float
    disparity_difference_max: float
    pose_difference: float
    repeats: int


@torch.inference_mode()
def measure(case: Case, repeats: int, with_memory: bool = True) -> Row:
    """Measure a case.

    Raises:
        DualRefineError: the case contradicts itself, or this machine cannot do it.
    """
    model = case.model()
    engine = VisualOdometry(model, case.odometry())
    plain = ReferenceEngine(model, case.iterations, engine.device)
    frames = moving_frames(WARM_UP + repeats)
    for frame in frames[:WARM_UP]:
        engine.process(frame)
        plain.process(frame)
    first, second = iter(frames[WARM_UP:]), iter(frames[WARM_UP:])
    both = alternate(
        [lambda: engine.process(next(first)), lambda: plain.process(next(second))], repeats, engine.device
    )
    updates = None
    if case.iterations:
        updates = alternate(_updates(case, engine, plain, frames), 2 * repeats + 1, engine.device)
    memory = [peak_memory_mib(case, side) if with_memory else None for side in SIDES]
    disparities, pose = _differences(case, engine, plain, frames[-2:])
    size = model.config
    sides = [_timing(both[i], updates[i] if updates else None, memory[i]) for i in (0, 1)]
    return Row(
        case=replace(case, height=size.height, width=size.width),
        engine=sides[0],
        reference=sides[1],
        speed_up=speed_up(*both),
        update_speed_up=speed_up(*updates) if updates else None,
        disparity_difference=float(np.percentile(disparities, 99)),
        disparity_difference_max=float(disparities.max()),
        pose_difference=pose,
        repeats=repeats,
    )


def _timing(frames: Measured[Any], updates: Measured[Any] | None, memory: float | None) -> Timing:
    timings = [estimate.timings for estimate in frames.results]
    stages = {name: 1e3 * median(timing[name] for timing in timings) for name in timings[0]}
    update_ms = updates.median_ms if updates else None
    return Timing(frames.median_ms, 1e3 / frames.median_ms, stages, update_ms, memory)


def _updates(
    case: Case, engine: VisualOdometry, plain: ReferenceEngine, frames: list[Frame]
) -> list[Callable[[], object]]:
    """One update of each side from the same start."""
    cur, prev, intrinsics = _tensors(plain, frames)
    light = engine.model
    with case.autocast(plain.device):
        encoded, T = light.encode(cur), light.teacher_pose(cur, prev)
        update = light.updater(encoded, light.encode(prev).matching, intrinsics)
    depth = light.to_depth(encoded.disparity)
    pair, disparity, hidden = reference.encode_both(
        plain.model, normalise(cur), normalise(prev), intrinsics / UPSAMPLING
    )
    plain_depth = plain.model.to_depth(disparity)

    def fast() -> object:
        with case.autocast(plain.device):
            return update(encoded.hidden, depth, T)

    return [fast, lambda: reference.update(plain.model, pair, hidden, plain_depth, T)]


def _tensors(plain: ReferenceEngine, frames: list[Frame]) -> tuple[Tensor, Tensor, Tensor]:
    """The second and the first of the frames, and intrinsics (1, 4), as the network sees them."""
    size, device = plain.model.config, plain.device
    prev, cur = (network_image(f.image, size.height, size.width, device) for f in frames[:2])
    k = frames[0].intrinsics.resized(size.width, size.height)
    return cur, prev, torch.tensor([[k.fx, k.fy, k.cx, k.cy]], device=device)


def _differences(
    case: Case, engine: VisualOdometry, plain: ReferenceEngine, frames: list[Frame]
) -> tuple[npt.NDArray[np.float32], float]:
    """Difference of the two sides in each pixel's disparity, and the largest in the entries of the pose."""
    clock = StageClock(engine.device)
    settings = (case.iterations, 0.0, case.precision, clock)
    before = observe(engine.model, frames[0], None, *settings)
    seen = observe(engine.model, frames[1], before.remembered, *settings)
    plain.process(frames[0])
    expected = plain.process(frames[1])
    disparities = [plain.model.to_disparity(torch.from_numpy(d)) for d in (seen.depth, expected.depth)]
    assert seen.motion is not None
    pose = np.abs(seen.motion.T_prev_cur - expected.T_prev_cur).max()
    return (disparities[0] - disparities[1]).abs().numpy(), float(pose)
