"""What is known of one frame: its parent and its place in it, over time. Times are in nanoseconds."""

from __future__ import annotations

from bisect import bisect_left
from typing import NamedTuple

from tf2_ros.exceptions import ExtrapolationException
from tf2_ros.transform import RigidTransform, interpolate

NEWEST = 0  # tf2's time zero: "the newest there is"


class Sample(NamedTuple):
    """``T_parent_frame`` at one moment."""

    parent: str
    transform: RigidTransform


class StaticFrame:
    """A frame that never moves; its one sample holds at every time."""

    newest_time = None

    def __init__(self, sample: Sample) -> None:
        self._sample = sample

    def at(self, time: int) -> Sample:
        """The sample."""
        return self._sample


class MovingFrame:
    """Samples sorted by time, none older than ``cache_time`` before the newest."""

    def __init__(self, cache_time: int) -> None:
        self._cache_time = cache_time
        self._times: list[int] = []
        self._samples: list[Sample] = []

    @property
    def newest_time(self) -> int:
        """Time of the newest sample."""
        return self._times[-1]

    def insert(self, time: int, sample: Sample) -> None:
        """Add a sample, in order, and forget those that have become too old.

        A sample of the same time is replaced.

        Raises:
            ValueError: the sample itself is too old.
        """
        if self._times and time < self.newest_time - self._cache_time:
            raise ValueError("it is older than the buffer reaches back")
        index = bisect_left(self._times, time)
        if index < len(self._times) and self._times[index] == time:
            self._samples[index] = sample
            return
        self._times.insert(index, time)
        self._samples.insert(index, sample)
        outdated = bisect_left(self._times, self.newest_time - self._cache_time)
        del self._times[:outdated], self._samples[:outdated]

    def at(self, time: int) -> Sample:
        """The sample at ``time``, interpolated between its neighbours.

        Between two samples with different parents, the older one holds.

        Raises:
            ExtrapolationException: ``time`` is before the first or after the last sample.
        """
        if time == NEWEST:
            return self._samples[-1]
        index = bisect_left(self._times, time)
        if index < len(self._times) and self._times[index] == time:
            return self._samples[index]
        if index == 0:
            raise ExtrapolationException(
                "Lookup would require extrapolation into the past. Requested time "
                f"{time * 1e-9:.6f} but the earliest data is at time {self._times[0] * 1e-9:.6f}"
            )
        if index == len(self._times):
            raise ExtrapolationException(
                "Lookup would require extrapolation into the future. Requested time "
                f"{time * 1e-9:.6f} but the latest data is at time {self.newest_time * 1e-9:.6f}"
            )
        older, newer = self._samples[index - 1], self._samples[index]
        if older.parent != newer.parent:
            return older
        start, end = self._times[index - 1 : index + 1]
        ratio = (time - start) / (end - start)
        return Sample(older.parent, interpolate(older.transform, newer.transform, ratio))
