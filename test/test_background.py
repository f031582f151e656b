"""Reading ahead and writing behind keep the order, and lose neither items nor errors."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator

import pytest

from dualrefine_ros.evaluation.background import WriteBehind, read_ahead


def test_read_ahead_keeps_the_order_and_works_in_another_thread() -> None:
    threads = set()

    def numbers() -> Iterator[int]:
        for number in range(50):
            threads.add(threading.current_thread())
            yield number

    assert list(read_ahead(numbers())) == list(range(50))
    assert threading.current_thread() not in threads
    assert list(read_ahead([])) == []


def test_read_ahead_is_a_few_ahead_and_no_more() -> None:
    taken: list[int] = []
    items = read_ahead((taken.append(number) or number for number in range(100)), ahead=3)
    assert next(items) == 0
    assert next(items) == 1
    items.close()
    assert len(taken) <= 6


def test_read_ahead_raises_an_error_in_its_place() -> None:
    def numbers() -> Iterator[int]:
        yield 1
        yield 2
        raise ValueError("third")

    items = read_ahead(numbers(), ahead=8)
    assert [next(items), next(items)] == [1, 2]
    with pytest.raises(ValueError, match="third"):
        next(items)


def test_write_behind_calls_in_order() -> None:
    done: list[int] = []
    write = WriteBehind(behind=2)
    for number in range(40):
        write(done.append, number)
    write.close()
    assert done == list(range(40))


def test_write_behind_waits_when_too_much_is_pending() -> None:
    gate, write = threading.Event(), WriteBehind(behind=2)
    write(gate.wait)
    write(gate.wait)
    blocked = threading.Thread(target=write, args=(gate.wait,))
    blocked.start()
    blocked.join(0.1)
    assert blocked.is_alive()
    gate.set()
    blocked.join(5)
    assert not blocked.is_alive()
    write.close()


def failure_of(call: Callable[[], None]) -> str | None:
    try:
        call()
    except ValueError as error:
        return str(error)
    return None


def test_write_behind_reports_a_failure_once() -> None:
    """At the next call or at the end, whichever comes first."""
    write, done = WriteBehind(), []
    calls = (lambda: write(int, "no number"), lambda: write(done.append, 1), write.close)
    failures = [failure for failure in map(failure_of, calls) if failure]
    assert len(failures) == 1
    assert "no number" in failures[0]
