from __future__ import annotations

import threading
import time
from collections.abc import Generator
from typing import cast

import pytest

from quantpipe.data.prefetch import map_ahead


def workers() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith("prefetch")]


@pytest.mark.parametrize("num_workers", [0, 1, 3])
def test_results_come_in_order(num_workers: int) -> None:
    def slow_at_first(item: int) -> int:
        time.sleep(0.02 if item == 0 else 0)
        return item * item

    assert list(map_ahead(slow_at_first, range(20), num_workers=num_workers)) == [
        item * item for item in range(20)
    ]
    assert workers() == []


@pytest.mark.parametrize("num_workers", [0, 1, 3])
def test_an_error_reaches_the_caller_in_its_place(num_workers: int) -> None:
    def divide(item: int) -> float:
        return 6 / (3 - item)

    results = map_ahead(divide, range(100), num_workers=num_workers)
    assert [next(results) for _ in range(3)] == [2, 3, 6]
    with pytest.raises(ZeroDivisionError):
        next(results)
    assert workers() == []


@pytest.mark.parametrize("num_workers", [1, 3])
def test_closing_stops_the_threads_and_little_was_done_ahead(num_workers: int) -> None:
    begun: list[int] = []
    results = map_ahead(begun.append, range(1000), num_workers=num_workers)
    next(results)
    cast("Generator[None]", results).close()
    assert workers() == []
    assert len(begun) <= num_workers + 2


def test_work_overlaps_with_the_consumer() -> None:
    def prepare(item: int) -> int:
        time.sleep(0.02)
        return item

    def seconds() -> float:
        started = time.perf_counter()
        for _ in map_ahead(prepare, range(12), num_workers=4):
            time.sleep(0.005)
        return time.perf_counter() - started

    # A busy machine delays, it never hastens.
    assert min(seconds() for _ in range(3)) < 12 * 0.025 * 0.8
