"""Where the time of a frame goes: by operator and by kind of operator, in the engine and in the reference."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, record_function

from dualrefine_ros.benchmark.cases import Case, moving_frames
from dualrefine_ros.benchmark.measure import WARM_UP
from dualrefine_ros.benchmark.reference_engine import ReferenceEngine
from dualrefine_ros.benchmark.timing import synchronize
from dualrefine_ros.errors import ConfigError
from dualrefine_ros.frame import Frame
from dualrefine_ros.model import native
from dualrefine_ros.odometry import VisualOdometry

NATIVE = ("convolution", "epipolar_search", "epipolar_cost_forward", "alignment_moments")  # C++ of our own
# the first that is found in an operator's name is its kind
KINDS = {
    "convolutions": r"conv(?!ert)",
    "norms": r"(batch|instance|weight)_norm",
    "sampling, resizing": r"grid_sampler|gather|index|upsample|pool|epipolar|moments",
    "concatenation": r"cat$|stack",
    "products, sums": r"mm$|matmul|linalg|cholesky|linear|sum$|mean$",
    "copies, allocation": r"copy|clone|contiguous|empty|resize_|fill|zero|ones|_like|pad|arange|eye",
    "pointwise": r"::(add|addcmul|r?sub|mul|div|neg|abs|reciprocal|sqrt|exp|log|pow|sin|cos|where|lerp|clamp|"
    r"minimum|maximum|sigmoid|tanh|(leaky_)?relu|hardtanh|elu|silu|softplus|_softmax|isfinite|logical|bitwise|"
    r"eq|ne|lt|le|gt|ge)(_|$)",
    "other operators": "",
}
OUTSIDE = "outside operators"


@dataclass(frozen=True)
class Operator:
    """What one operator takes of a frame, without what it calls.

    Args:
        name: as PyTorch's profiler has it; ``native::`` are functions of our own.
        kind: of :data:`KINDS`.
        calls: in a frame.
        ms: of the CPU; of the GPU, where the network runs there.
    """

    name: str
    kind: str
    calls: float
    ms: float


@dataclass(frozen=True)
class Profile:
    """One side.

    Args:
        frame_ms: of a frame, the profiler's own work included; a mean.
        operators: the costliest first.
    """

    frame_ms: float
    operators: list[Operator]

    @property
    def kinds_ms(self) -> dict[str, float]:
        """What each kind takes of a frame, and what no operator does: Python, resizing the image, Triton."""
        kinds = {kind: sum(o.ms for o in self.operators if o.kind == kind) for kind in KINDS}
        return {**kinds, OUTSIDE: self.frame_ms - sum(kinds.values())}


@torch.inference_mode()
def measure_profile(case: Case, repeats: int) -> dict[str, Profile]:
    """Of the engine and of the reference, on the same frames.

    Args:
        case: what they run.
        repeats: frames of each.

    Raises:
        ConfigError: the case is one of onnxruntime.
    """
    if case.backend != "torch":
        raise ConfigError("PyTorch's profiler does not see into onnxruntime: profile with torch.")
    model = case.model()
    engine = VisualOdometry(model, case.odometry())
    plain = ReferenceEngine(model, case.iterations, engine.device)
    frames = moving_frames(WARM_UP + repeats)
    with _native_calls_shown():
        return {
            "engine": _profiled(engine.process, frames, engine.device),
            "reference": _profiled(plain.process, frames, engine.device),
        }


def _profiled(process: Callable[[Frame], object], frames: list[Frame], device: torch.device) -> Profile:
    for frame in frames[:WARM_UP]:
        process(frame)
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # else it laments GPUs that nobody has asked for
    on_gpu = device.type == "cuda"
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if on_gpu else [])]
    synchronize(device)
    with torch.profiler.profile(activities=activities) as profiler:
        start = time.perf_counter()
        for frame in frames[WARM_UP:]:
            process(frame)
        synchronize(device)
        seconds = time.perf_counter() - start
    count = len(frames) - WARM_UP
    return Profile(1e3 * seconds / count, operators(profiler.key_averages(), count, on_gpu))


def operators(events: Iterable[Any], frames: int, on_gpu: bool) -> list[Operator]:
    """What the profiler's events say of the operators.

    Args:
        events: of :meth:`torch.profiler.profile.key_averages`.
        frames: that they are the sums of.
        on_gpu: whose time counts.
    """
    found = [
        Operator(
            event.key,
            kind_of(event.key),
            event.count / frames,
            (event.self_device_time_total if on_gpu else event.self_cpu_time_total) / 1e3 / frames,
        )
        for event in events
        if event.device_type == DeviceType.CPU  # kernels of a GPU count as the operators that launch them
    ]
    return sorted(found, key=lambda operator: -operator.ms)


def kind_of(name: str) -> str:
    """Of an operator."""
    return next(kind for kind, pattern in KINDS.items() if re.search(pattern, name))


@contextmanager
def _native_calls_shown() -> Iterator[None]:
    """Let the profiler see the functions in C++: it knows PyTorch's operators only."""
    functions: Mapping[str, Callable[..., object]] = {}
    if native.available():
        functions = {name: getattr(native.library(), name) for name in NATIVE}
    for name, function in functions.items():
        setattr(native.library(), name, _recorded(f"native::{name}", function))
    try:
        yield
    finally:
        for name, function in functions.items():
            setattr(native.library(), name, function)


def _recorded(name: str, function: Callable[..., object]) -> Callable[..., object]:
    def call(*args: object) -> object:
        with record_function(name):
            return function(*args)

    return call
