"""Reading ahead and writing behind: the engine never waits for a disk or a codec."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

T = TypeVar("T")
AHEAD = 4  # items read before they are asked for
BEHIND = 8  # calls that may be pending before the next one waits

_END: Any = object()


def read_ahead(items: Iterable[T], ahead: int = AHEAD) -> Iterator[T]:
    """The same items in the same order, taken from ``items`` by a thread that stays a few ahead.

    An exception of ``items`` is raised in its place in the order.
    """
    iterator = iter(items)
    with ThreadPoolExecutor(1, "read_ahead") as reader:
        pending = deque(reader.submit(next, iterator, _END) for _ in range(ahead))
        while (item := pending.popleft().result()) is not _END:
            pending.append(reader.submit(next, iterator, _END))
            yield item


class WriteBehind:
    """Calls functions one after the other in a thread; the first failure is raised by a later call."""

    def __init__(self, behind: int = BEHIND) -> None:
        self._writer = ThreadPoolExecutor(1, "write_behind")
        self._pending: deque[Future[Any]] = deque()
        self._behind = behind

    def __call__(self, function: Callable[..., Any], *args: Any) -> None:
        """Call ``function(*args)`` soon; waits while too many calls are pending."""
        self._pending.append(self._writer.submit(function, *args))
        while len(self._pending) > self._behind or self._pending[0].done():
            self._pending.popleft().result()
            if not self._pending:
                return

    def close(self) -> None:
        """Wait for all calls."""
        self._writer.shutdown()
        while self._pending:
            self._pending.popleft().result()
