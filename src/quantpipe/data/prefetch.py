"""A map that works ahead in threads, in order, and stops when nobody asks for more.

Threads and not processes: decoding, resizing and warping release the interpreter lock, one cache
of decoded images serves all, and there is nothing to fork, to pickle or to kill.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")
R = TypeVar("R")


def map_ahead(function: Callable[[T], R], items: Iterable[T], *, num_workers: int) -> Iterator[R]:
    """Yields ``function(item)`` in the order of ``items``.

    Args:
        function: Called in a worker thread; an exception is raised where its result was due.
        items: What to call it with.
        num_workers: Threads; up to one result more than that waits to be taken. 0 calls
            ``function`` in line.

    Closing the iterator drops what was not begun and waits for what was.
    """
    if num_workers == 0:
        yield from map(function, items)
        return
    executor = ThreadPoolExecutor(num_workers, thread_name_prefix="prefetch")
    waiting: deque[Future[R]] = deque()
    try:
        for item in items:
            waiting.append(executor.submit(function, item))
            if len(waiting) > num_workers + 1:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        executor.shutdown(wait=True, cancel_futures=True)
