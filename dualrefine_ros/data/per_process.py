"""File handles that survive loader processes."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any, Generic, TypeVar

T = TypeVar("T")


class PerProcess(Generic[T]):
    """A handle that every process opens for itself, when it first needs it.

    A forked child shares file positions with its parent, and handles cannot be pickled: a loader's
    workers would read each other's data.
    """

    def __init__(self, open_handle: Callable[[], T]) -> None:
        self._open = open_handle
        self._opened: tuple[int, T] | None = None  # (process, handle)

    def get(self) -> T:
        """This process's handle."""
        if self._opened is None or self._opened[0] != os.getpid():
            self._opened = (os.getpid(), self._open())
        return self._opened[1]

    def __getstate__(self) -> dict[str, Any]:
        return {"_open": self._open, "_opened": None}
