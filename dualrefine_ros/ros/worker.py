"""Work of one frame at a time beside the executor: the newest one waits, older ones are dropped."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Generic, TypeVar

Item = TypeVar("Item")
_ASIDE = 5e-4  # seconds


class Mailbox(Generic[Item]):
    """Room for one item; a newer one takes the place of one that nobody has taken."""

    def __init__(self) -> None:
        self._condition = threading.Condition()
        self._item: Item | None = None
        self._closed = False

    def put(self, item: Item) -> bool:
        """Leave an item; whether it took the place of another. Steps aside for a moment, but never waits."""
        with self._condition:
            replaced = self._item is not None
            self._item = item
            self._condition.notify()
        time.sleep(_ASIDE)  # else the taker waits for the interpreter while the executor prepares to wait
        return replaced

    def take(self) -> Item | None:
        """Wait for an item and take it; None once the mailbox is closed."""
        with self._condition:
            self._condition.wait_for(lambda: self._closed or self._item is not None)
            if self._closed:
                return None
            item, self._item = self._item, None
            return item

    def close(self) -> bool:
        """End all waiting, now and later; whether an item that nobody has taken is lost."""
        with self._condition:
            self._closed = True
            self._condition.notify_all()
            return self._item is not None


class Worker(Generic[Item]):
    """A thread that handles the newest item, one after the other.

    Args:
        handle: called with each item taken. What it raises ends the thread and is kept in ``error``, so
            that whoever started it can tell the world instead of falling silent.
        prepare: called first, in the thread.
    """

    def __init__(self, handle: Callable[[Item], None], prepare: Callable[[], None] = lambda: None) -> None:
        self.mailbox: Mailbox[Item] = Mailbox()
        self.error: BaseException | None = None
        self._handle, self._prepare = handle, prepare
        self._thread = threading.Thread(target=self._run, name="worker", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            self._prepare()
            while (item := self.mailbox.take()) is not None:
                self._handle(item)
        except Exception as error:
            self.error = error

    def close(self) -> bool:
        """Let the item in hand be finished, take no other, and wait; whether one is left over."""
        left_over = self.mailbox.close()
        self._thread.join()
        return left_over
