"""The soak's bookkeeping: where did every image go? No ROS here.

A *stretch* is the time in which camera and node are known to hear each other. It begins when an image was
answered and nothing is on its way any more, and ends before either side goes away on purpose (the publisher
restarts, the node is deactivated), when again nothing is on its way. Within it nothing may be lost:

- every image sent is received: ``received`` of the node's diagnostics rises by exactly their number;
- every image received has an end: answered, dropped (a newer one came first), skipped (paused), waiting
  (for its calibration, in vain), refused or failed;
- every answer is heard: as many odometry messages as the node counts answers, each of a good image;
- every good image is answered, unless it was dropped or waited; skipped are those sent during a pause, and
  no others; what is refused was bad; what waits in vain was bad, or one of the first after the size of
  images or calibration changed (calibration lost on the way comes with the middleware's next repair).

Between stretches nobody can know who has found whom: middleware matches publisher and subscription on each
side in its own time. Images sent then are tries, counted apart, and what is measured is the time from the
change to the first answer.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from statistics import median
from typing import Any

from dualrefine_ros.ros.statistics import ENDS

LONGEST_SILENCE = 5  # looks at the node, a second apart: one that drops all it gets is no help
WAITING_FOR_SIZE = 15  # good images that may wait in vain for each change of size: some three seconds
LONGEST_RECONNECTION = 30.0  # seconds


@dataclass
class Stretch:
    """What happened while both sides heard each other.

    Args:
        before: the node's counts at the beginning.
        good: stamps of sound images, in order.
        bad: number of images that cannot be used.
        paused: number of images sent while the node was told to skip them.
        size_changes: how often a good image or its calibration had another size than the one before.
        heard: how often each stamp was answered.
        silence: the longest run of looks in which the node dropped images and answered none. It is measured
            at the node, because DDS may hold images back for seconds and deliver them at once.
    """

    before: Counter[str]
    good: dict[int, None] = field(default_factory=dict)
    bad: int = 0
    paused: int = 0
    size_changes: int = 0
    heard: Counter[int] = field(default_factory=Counter)
    silence: int = 0
    _silent: int = 0  # looks, now
    _seen: Counter[str] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        self._seen = self.before

    def look(self, counts: Mapping[str, int]) -> None:
        """A second has passed, and these are the node's counts."""
        gain = Counter(counts)
        gain.subtract(self._seen)
        self._seen = Counter(counts)
        if gain["answered"]:
            self._silent = 0
        elif gain["dropped"]:
            self._silent += 1
            self.silence = max(self.silence, self._silent)

    @property
    def sent(self) -> int:
        """All images."""
        return len(self.good) + self.bad + self.paused

    @property
    def unanswered(self) -> int:
        """Good images without an answer."""
        return sum(stamp not in self.heard for stamp in self.good)

    def gain(self, counts: Mapping[str, int]) -> Counter[str]:
        """What the node counted since the beginning."""
        gain = Counter(counts)
        gain.subtract(self.before)
        return gain

    def on_their_way(self, counts: Mapping[str, int]) -> dict[str, int]:
        """What is not there yet: lost, if it stays so. Empty once all has arrived."""
        gain = self.gain(counts)
        missing = {
            "images lost on the way": self.sent - gain["received"],
            "images without an end": gain["received"] - sum(gain[end] for end in ENDS),
            "answers not heard": gain["answered"] - self.heard.total(),
        }
        return {name: number for name, number in missing.items() if number}

    def failures(self, counts: Mapping[str, int]) -> dict[str, int]:
        """What went wrong, at the end, and how often."""
        gain = self.gain(counts)
        wrong = {
            "good images neither answered nor counted": max(
                0, self.unanswered - gain["dropped"] - gain["waiting"]
            ),
            "answers to no good image": sum(stamp not in self.good for stamp in self.heard),
            "images answered twice": sum(number - 1 for number in self.heard.values()),
            "images skipped though not paused": gain["skipped"] - self.paused,
            "good images refused": max(0, gain["refused"] - self.bad),
            "good images that waited in vain": max(
                0, gain["waiting"] - self.bad - WAITING_FOR_SIZE * self.size_changes
            ),
            "images that the device failed on": gain["failed"],
            "seconds of dropping all that came": max(0, self.silence - LONGEST_SILENCE),
        }
        return self.on_their_way(counts) | {name: number for name, number in wrong.items() if number}


@dataclass
class Account:
    """All stretches, and the reconnections between them."""

    stretch: Stretch | None = None  # the present one
    totals: Counter[str] = field(default_factory=Counter)
    counts: Counter[str] = field(default_factory=Counter)  # of the node, in all stretches
    failures: Counter[str] = field(default_factory=Counter)
    failed_stretches: list[dict[str, int]] = field(default_factory=list)
    reconnections: dict[str, list[float]] = field(default_factory=dict)  # seconds, by what was before
    tries: int = 0

    def begin(self, counts: Mapping[str, int]) -> None:
        """Camera and node hear each other; these are the node's counts."""
        self.stretch = Stretch(Counter(counts))

    def end(self, counts: Mapping[str, int]) -> None:
        """They are about to part; nothing more is on its way."""
        if self.stretch is None:
            return
        stretch, self.stretch = self.stretch, None
        if failures := stretch.failures(counts):
            self.failures.update({name: abs(number) for name, number in failures.items()})
            self.failed_stretches.append(
                {"stretch": self.totals["stretches"], "sent": stretch.sent, **failures}
            )
        self.counts.update(stretch.gain(counts))
        self.totals.update(
            {
                "stretches": 1,
                "images": stretch.sent,
                "good": len(stretch.good),
                "good answered": len(stretch.good) - stretch.unanswered,
            }
        )

    def reconnected(self, after: str, seconds: float, tries: int) -> None:
        """An image was answered so long after a change, and after so many tries."""
        self.reconnections.setdefault(after, []).append(seconds)
        self.tries += tries
        self.failures["reconnections that took too long"] += seconds > LONGEST_RECONNECTION

    def failed_checks(self) -> list[str]:
        """What went wrong, and how often."""
        return [f"{name} ({number})" for name, number in sorted(self.failures.items()) if number]

    def report(self) -> dict[str, Any]:
        """All figures, for a JSON file."""
        return {
            "stretches": self.totals["stretches"],
            "images": self.totals["images"],
            "images_good": self.totals["good"],
            "good_answered": self.totals["good answered"],
            "node_counts": {name: self.counts[name] for name in ("received", *ENDS)},
            "failed_stretches": self.failed_stretches,
            "reconnections": {
                after: {
                    "number": len(seconds),
                    "median_s": round(median(seconds), 2),
                    "longest_s": round(max(seconds), 2),
                }
                for after, seconds in sorted(self.reconnections.items())
            },
            "images_before_reconnected": self.tries,
        }
