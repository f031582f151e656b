"""Measuring several things against each other on a machine that is never quite at rest."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Generic, TypeVar

import torch

Result = TypeVar("Result")


@dataclass(frozen=True)
class Measured(Generic[Result]):
    """Seconds and results of every call of one function."""

    seconds: list[float]
    results: list[Result]

    @property
    def median_ms(self) -> float:
        """The median of the seconds, in milliseconds."""
        return 1e3 * median(self.seconds)


def alternate(
    works: Sequence[Callable[[], Result]], repeats: int, device: torch.device
) -> list[Measured[Result]]:
    """Call the functions in turn (A B A B), so that whatever disturbs the machine disturbs all alike.

    Args:
        works: the functions.
        repeats: calls of each.
        device: waited for before the clock is read.
    """
    measured: list[Measured[Result]] = [Measured([], []) for _ in works]
    for _ in range(repeats):
        for work, record in zip(works, measured, strict=True):
            synchronize(device)
            start = time.perf_counter()
            result = work()
            synchronize(device)
            record.seconds.append(time.perf_counter() - start)
            record.results.append(result)
    return measured


def synchronize(device: torch.device) -> None:
    """Wait until the device has done all that it was asked for."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def speed_up(fast: Measured[Result], slow: Measured[Result]) -> float:
    """Median over the turns of slow / fast: what both suffered in a turn cancels out."""
    return median(b / a for a, b in zip(fast.seconds, slow.seconds, strict=True))
