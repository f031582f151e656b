"""A recording through the engine: every frame, in order, the same numbers each time."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import numpy.typing as npt

from dualrefine_ros.data.source import Source
from dualrefine_ros.errors import DataError, InputError
from dualrefine_ros.evaluation.background import read_ahead
from dualrefine_ros.frame import Estimate, Frame, Status
from dualrefine_ros.geometry.trajectory import Trajectory

log = logging.getLogger(__name__)


class Engine(Protocol):
    """What replay needs of :class:`dualrefine_ros.odometry.VisualOdometry`."""

    def reset(self) -> None:
        """Start a new trajectory."""

    def process(self, frame: Frame) -> Estimate:
        """Depth and motion of the next frame."""


@dataclass(frozen=True)
class Step:
    """One frame and the engine's answer to it.

    Args:
        number: the recording's own number of the frame.
        seconds: that the engine took.
    """

    number: int
    frame: Frame
    estimate: Estimate
    seconds: float


Observer = Callable[[Step], object]


class PoseRecorder:
    """An observer that keeps the poses, and nothing as large as an image."""

    def __init__(self) -> None:
        self._poses: list[npt.NDArray[np.float64]] = []
        self._stamps_ns: list[int] = []
        self._numbers: list[int] = []

    def __call__(self, step: Step) -> None:
        self._poses.append(step.estimate.T_world_cam)
        self._stamps_ns.append(step.estimate.stamp_ns)
        self._numbers.append(step.number)

    def __len__(self) -> int:
        return len(self._poses)

    def trajectory(self) -> Trajectory:
        """The poses so far.

        Raises:
            DataError: there are none.
        """
        if not self._poses:
            raise DataError("The recording holds no frame that could be processed.")
        return Trajectory(np.array(self._poses), np.array(self._stamps_ns), np.array(self._numbers))


@dataclass
class EngineLog:
    """An observer that keeps how the engine fared, one entry a frame.

    Args:
        seconds: that the engine took.
        stages: seconds of each of its stages.
        update_norms: |xi| of each iteration.
        clock: when the frame was done, in seconds of ``time.perf_counter``.
    """

    statuses: list[Status] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    stages: list[dict[str, float]] = field(default_factory=list)
    update_norms: list[npt.NDArray[np.float32]] = field(default_factory=list)
    clock: list[float] = field(default_factory=list)

    def __call__(self, step: Step) -> None:
        self.statuses.append(step.estimate.status)
        self.seconds.append(step.seconds)
        self.stages.append(step.estimate.timings)
        self.update_norms.append(step.estimate.pose_update_norms)
        self.clock.append(time.perf_counter())

    def speed(self) -> tuple[float | None, float | None]:
        """Frames per second of the engine alone, and with all around it; None below two frames.

        The first frame, which pays for starting up, does not count.
        """
        if len(self.seconds) < 2:
            return None, None
        count = len(self.seconds) - 1
        return count / sum(self.seconds[1:]), count / (self.clock[-1] - self.clock[0])


def replay(
    source: Iterable[Frame],
    odometry: Engine,
    *,
    indices: Sequence[int] | None = None,
    observers: Sequence[Observer] = (),
    stop: threading.Event | None = None,
) -> Trajectory:
    """Run the engine over a recording from its first frame.

    A frame the engine refuses is reported and left out; the next one follows the last it accepted.

    Args:
        source: a recording, or any frames in order of time (numbered from 0).
        odometry: the engine; is reset first.
        indices: which frames of a :class:`Source` to take, increasing; all by default.
        observers: called with each step, in order.
        stop: once set, no further frame is begun.

    Returns:
        Poses ``T_world_cam`` with stamps and frame numbers, the first camera being the world.

    Raises:
        DataError: not one frame could be processed.
    """
    odometry.reset()
    poses = PoseRecorder()
    watching: list[Observer] = [poses, *observers]
    for number, frame in read_ahead(_numbered(source, indices)):
        if stop is not None and stop.is_set():
            break
        start = time.perf_counter()
        try:
            estimate = odometry.process(frame)
        except InputError as error:
            log.warning("Frame %d skipped: %s", number, error)
            continue
        step = Step(number, frame, estimate, time.perf_counter() - start)
        for observe in watching:
            observe(step)
    return poses.trajectory()


def _numbered(source: Iterable[Frame], indices: Sequence[int] | None) -> Iterator[tuple[int, Frame]]:
    if not isinstance(source, Source):
        return enumerate(source)
    indexed = source.indexed(range(len(source)) if indices is None else indices)
    return ((source.frame_id(index), frame) for index, frame in indexed)
