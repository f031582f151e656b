"""How PyTorch's threads wait for each other.

They meet at the end of every operation, thousands of times a frame. libgomp lets them wait awake for
milliseconds, which on a core that somebody else needs makes everybody wait for the scheduler's next turn:
beside a program that kept one of two cores busy a frame took 605 ms, with threads that soon sleep 311
(docs/performance.md).
"""

from __future__ import annotations

import os

AWAKE = "1000"  # rounds of waiting, some microseconds: operations that follow each other still meet awake
_CHOICES = ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")


def sleep_soon() -> None:
    """From now on new processes, and this one if PyTorch is not imported yet, wait awake only briefly.

    What the user has set stays.
    """
    if not any(choice in os.environ for choice in _CHOICES):
        os.environ[_CHOICES[0]] = AWAKE
