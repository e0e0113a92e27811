"""A watcher that also keeps every note in a file."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import TypeVar

from quantpipe.progress import Progress

T = TypeVar("T")


class Logged:
    """Hands everything on to another watcher, and appends notes to a log, one line each.

    Args:
        shown: Who shows it.
        path: The log.
    """

    def __init__(self, shown: Progress, path: Path):
        self._shown = shown
        self._path = path

    def track(
        self, items: Iterable[T], description: str, *, total: int | None = None, done: int = 0
    ) -> Iterator[T]:
        """Yields ``items`` under the other watcher's bar."""
        return self._shown.track(items, description, total=total, done=done)

    def status(self, text: str) -> None:
        """Shows ``text``."""
        self._shown.status(text)

    def note(self, text: str) -> None:
        """Shows ``text`` and appends it with the time."""
        self._shown.note(text)
        stamp = datetime.now().astimezone().isoformat(timespec="seconds")
        # A full disk must not stop work that has no need of it.
        with suppress(OSError), self._path.open("a", encoding="utf-8") as log:
            log.write(f"{stamp} {text}\n")

    def should_stop(self) -> bool:
        """Asks the other watcher."""
        return self._shown.should_stop()
