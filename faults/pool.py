"""Runs campaigns two at a time, each in a fresh process, under a bar each."""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from multiprocessing.sharedctypes import SynchronizedArray

from faults.campaigns import Entry
from faults.tally import WATCHERS, Tally
from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    SpinnerColumn,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
)

AT_ONCE = 2
_REFRESH_SECONDS = 0.2
# In a worker, for each campaign: faults so far, survived so far.
_COUNTS: list[SynchronizedArray[int]] = []


def run_all(entries: Sequence[Entry], seed: int, share: float) -> list[Tally]:
    """The counts of every campaign; one that broke has the reason as its only failure."""
    # Not forked: a campaign must not inherit what others import.
    context = multiprocessing.get_context("spawn")
    counts = context.Array("q", 2 * len(entries))
    pool = ProcessPoolExecutor(
        AT_ONCE,
        mp_context=context,
        initializer=_share,
        initargs=(counts,),
        max_tasks_per_child=1,
    )
    with pool, _bars() as bars:
        tasks = [bars.add_task(e.name, total=1, start=False, text="waits") for e in entries]
        futures = [pool.submit(_run, e, number, seed, share) for number, e in enumerate(entries)]
        while not all(future.done() for future in futures):
            time.sleep(_REFRESH_SECONDS)
            for number, future in enumerate(futures):
                _show(bars, tasks[number], future, counts[2 * number : 2 * number + 2])
        return [_counted(*pair, seed) for pair in zip(entries, futures, strict=True)]


def _share(counts: SynchronizedArray[int]) -> None:
    _COUNTS.append(counts)


def _run(entry: Entry, number: int, seed: int, share: float) -> Tally:
    counts = _COUNTS[0]

    def count(survived: bool) -> None:
        counts[2 * number] += 1
        counts[2 * number + 1] += survived

    WATCHERS.append(count)
    return entry.run(seed, share)


def _counted(entry: Entry, future: Future[Tally], seed: int) -> Tally:
    error = future.exception()
    if error is None:
        return future.result()
    broken = Tally(campaign=entry.name, rows=(), seed=seed)
    broken.record("the campaign itself", f"{type(error).__name__}: {error}")
    return broken


def _bars() -> Progress:
    return Progress(
        SpinnerColumn(),
        TextColumn("{task.description:12}"),
        BarColumn(),
        TextColumn("{task.fields[text]}"),
        TimeElapsedColumn(),
        console=Console(stderr=True),
        transient=True,
    )


def _show(bars: Progress, task: TaskID, future: Future[Tally], counts: Sequence[int]) -> None:
    """A bar that moves while its campaign runs, with its counts."""
    tried, survived = counts
    text = f"{tried:,} faults, {survived:,} survived" if tried else ""
    if future.done():
        bars.update(task, total=1, completed=1, text=text)
    elif future.running():
        bars.start_task(task)
        bars.update(task, total=None, text=text)
