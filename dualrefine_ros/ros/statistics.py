"""What the node counts: every image ends as one of these, and how long it took."""

from __future__ import annotations

import math
import threading
from collections import Counter, deque
from dataclasses import dataclass, field

import numpy as np

# Where an image can end. "dropped": a newer one came first; "skipped": by max_rate or pause; "waiting":
# calibration or a transform was missing; "refused": unusable; "failed": the device did.
ENDS = ("answered", "dropped", "skipped", "waiting", "refused", "failed")
_KEPT = 1000  # latencies


@dataclass
class Statistics:
    """Counters and recent measurements; safe to use from several threads.

    Args:
        counts: images by where they ended, and "received".
        statuses: answers by status.
        problems: the latest sentence about each kind of trouble, and the monotonic time it was said.
    """

    counts: Counter[str] = field(default_factory=Counter)
    statuses: Counter[str] = field(default_factory=Counter)
    problems: dict[str, tuple[float, str]] = field(default_factory=dict)
    stages: dict[str, float] = field(default_factory=dict)  # seconds, of the latest answer
    iterations: int = 0  # of the latest answer
    scale: float = 1.0
    scale_confidence: float = 1.0
    last_received: float | None = None  # monotonic time
    _latencies: deque[float] = field(default_factory=lambda: deque(maxlen=_KEPT))
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def count(self, end: str, number: int = 1) -> None:
        """So many images ended this way."""
        with self._lock:
            self.counts[end] += number

    def count_answer(self, status: str, latency: float) -> None:
        """An image was answered, this long (seconds) after its exposure; NaN: nobody knows."""
        with self._lock:
            self.counts["answered"] += 1
            self.statuses[status] += 1
            if math.isfinite(latency):
                self._latencies.append(latency)

    def snapshot(self) -> tuple[Counter[str], Counter[str]]:
        """Copies of ``counts`` and ``statuses``."""
        with self._lock:
            return self.counts.copy(), self.statuses.copy()

    def latency(self) -> dict[str, float]:
        """Median, 95 % and maximum of the recent latencies in seconds; empty before the first."""
        with self._lock:
            recent = list(self._latencies)
        if not recent:
            return {}
        median, p95 = np.percentile(recent, (50, 95))
        return {"median": float(median), "95 %": float(p95), "maximum": max(recent)}

    def summary(self) -> str:
        """One sentence for the log."""
        counts, _ = self.snapshot()
        parts = [f"{counts['answered']} images answered", f"{counts['dropped']} dropped for newer ones"]
        parts += [
            f"{counts[end]} {end}" for end in ("refused", "waiting", "skipped", "failed") if counts[end]
        ]
        return ", ".join(parts) + "."
