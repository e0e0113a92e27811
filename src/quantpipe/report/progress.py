"""Showing progress: live bars on a terminal, now and then a plain line anywhere else."""

from __future__ import annotations

import contextlib
import operator
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import IO, TypeVar

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.progress import Progress as RichBars

from quantpipe.progress import Progress
from quantpipe.report.number_text import duration

T = TypeVar("T")


@contextlib.contextmanager
def watching(stop: Callable[[], bool], console: Console | None = None) -> Iterator[Progress]:
    """Gives live bars where ``console`` is a terminal that can redraw, else plain lines.

    When the block ends, also by an error, no bar is left drawing over what is printed next.

    Args:
        stop: Whether the work was asked to stop.
        console: Where to show the progress; standard error by default.
    """
    console = console or Console(stderr=True)
    if not console.is_terminal or console.is_dumb_terminal:
        yield LineProgress(console.file, stop)
        return
    bars = TerminalProgress(console, stop)
    try:
        yield bars
    finally:
        bars.close()


class TerminalProgress:
    """Live bars, one below the other where they nest; the outermost stays when it is done.

    Args:
        console: A terminal.
        stop: Whether the work was asked to stop.
    """

    def __init__(self, console: Console, stop: Callable[[], bool]):
        self._console = console
        self._stop = stop
        self._bars: RichBars | None = None
        self._tasks: list[TaskID] = []

    def track(
        self, items: Iterable[T], description: str, *, total: int | None = None, done: int = 0
    ) -> Iterator[T]:
        """Yields ``items`` while showing a bar of ``total``, ``done`` of them from before."""
        bars = self._open()
        task = bars.add_task(
            _plain(description), total=_total(items, total, done), completed=done, status=""
        )
        self._tasks.append(task)
        try:
            for item in items:
                yield item
                bars.advance(task)
        finally:
            self._end(bars, task)

    def status(self, text: str) -> None:
        """Shows ``text`` to the right of the innermost bar."""
        if self._bars is not None and self._tasks:
            self._bars.update(self._tasks[-1], status=_plain(text))

    def note(self, text: str) -> None:
        """Prints ``text`` above the bars."""
        self._console.print(_plain(text), markup=False, highlight=False, soft_wrap=True)

    def should_stop(self) -> bool:
        """Whether the work was asked to stop."""
        return self._stop()

    def close(self) -> None:
        """Stops drawing; the bars stay as they are."""
        if self._bars is not None:
            self._bars.stop()
            self._bars = None
            self._tasks.clear()

    def _open(self) -> RichBars:
        if self._bars is None:
            self._bars = RichBars(
                TextColumn("{task.description}", markup=False),
                BarColumn(),
                MofNCompleteColumn(),
                TimeElapsedColumn(),
                TimeRemainingColumn(),
                TextColumn("{task.fields[status]}", markup=False, style="dim"),
                console=self._console,
            )
            self._bars.start()
        return self._bars

    def _end(self, bars: RichBars, task: TaskID) -> None:
        if self._bars is not bars:  # closed while the work was under way
            return
        self._tasks.remove(task)
        if self._tasks:
            bars.remove_task(task)
        else:
            self.close()


@dataclass(kw_only=True)
class _Bar:
    description: str
    total: int | None
    before: int  # items that an earlier run did
    count: int
    started: float
    status: str = ""

    def counted(self) -> str:
        return f"{self.description} {self.count}/{'?' if self.total is None else self.total}"

    def remaining(self, now: float) -> float | None:
        fresh = self.count - self.before
        if self.total is None or fresh == 0:
            return None
        return (now - self.started) / fresh * (self.total - self.count)


class LineProgress:
    """One line about every ten seconds and one at the end of each outermost bar.

    A line names the bars that are open, the time of the outermost one and the newest status::

        train 3/10 > batches 12/50, 30 s elapsed, 1:10 left, loss 1.20
        train 10/10 in 1:40, mAP 41.2

    Lines hold printable characters only.

    Args:
        stream: A log file, a pipe.
        stop: Whether the work was asked to stop.
        interval: Seconds between lines.
        clock: Seconds that never go back.
    """

    def __init__(
        self,
        stream: IO[str],
        stop: Callable[[], bool],
        *,
        interval: float = 10.0,
        clock: Callable[[], float] = time.monotonic,
    ):
        self._stream = stream
        self._stop = stop
        self._interval = interval
        self._clock = clock
        self._bars: list[_Bar] = []
        self._last_line = clock()

    def track(
        self, items: Iterable[T], description: str, *, total: int | None = None, done: int = 0
    ) -> Iterator[T]:
        """Yields ``items`` and writes a line when it is time."""
        now = self._clock()
        if not self._bars:
            self._last_line = now
        bar = _Bar(
            description=_plain(description),
            total=_total(items, total, done),
            before=done,
            count=done,
            started=now,
        )
        self._bars.append(bar)
        try:
            for item in items:
                yield item
                bar.count += 1
                self._tick()
        finally:
            self._close(bar)

    def status(self, text: str) -> None:
        """Keeps ``text`` for the next line."""
        if self._bars:
            self._bars[-1].status = _plain(text)

    def note(self, text: str) -> None:
        """Writes ``text`` as a line of its own."""
        self._write(_plain(text))

    def should_stop(self) -> bool:
        """Whether the work was asked to stop."""
        return self._stop()

    def _tick(self) -> None:
        now = self._clock()
        if now - self._last_line < self._interval:
            return
        self._last_line = now
        outermost = self._bars[0]
        remaining = outermost.remaining(now)
        parts = [
            " > ".join(bar.counted() for bar in self._bars),
            f"{duration(now - outermost.started)} elapsed",
            "" if remaining is None else f"{duration(remaining)} left",
            next((bar.status for bar in reversed(self._bars) if bar.status), ""),
        ]
        self._write(", ".join(part for part in parts if part))

    def _close(self, bar: _Bar) -> None:
        self._bars.remove(bar)
        if self._bars:
            # The newest status lives on beside the outer bar.
            self._bars[-1].status = bar.status or self._bars[-1].status
            return
        took = duration(self._clock() - bar.started)
        status = f", {bar.status}" if bar.status else ""
        self._write(f"{bar.counted()} in {took}{status}")

    def _write(self, line: str) -> None:
        self._stream.write(line + "\n")
        self._stream.flush()


def _total(items: Iterable[object], total: int | None, done: int) -> int | None:
    """``total`` as given, or where ``items`` knows its length, that and ``done``."""
    if total is not None:
        return total
    length = operator.length_hint(items, -1)
    return None if length < 0 else done + length


def _plain(text: str) -> str:
    """``text`` on one line; a control character could redraw or clear the terminal."""
    joined = " ".join(text.split())
    return "".join(letter if letter.isprintable() else "?" for letter in joined)
