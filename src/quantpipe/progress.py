"""The seam between work and whoever watches it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Protocol, TypeVar

from quantpipe.errors import Interrupted

T = TypeVar("T")


class Progress(Protocol):
    """What long work needs of a watcher: a bar, a line, and whether to stop."""

    def track(
        self, items: Iterable[T], description: str, *, total: int | None = None, done: int = 0
    ) -> Iterator[T]:
        """Yields ``items`` while showing ``description``, a bar of ``total`` and the time left.

        ``done`` counts the items that an earlier run finished already.
        """
        ...

    def status(self, text: str) -> None:
        """Shows a short text beside the current bar (loss, mAP, ...)."""
        ...

    def note(self, text: str) -> None:
        """Prints one line that stays."""
        ...

    def should_stop(self) -> bool:
        """Whether a signal asked to stop: save progress, then :func:`stop_if_asked`."""
        ...


class Silent:
    """A :class:`Progress` that shows nothing and never stops the work."""

    def track(
        self,
        items: Iterable[T],
        description: str,  # noqa: ARG002
        *,
        total: int | None = None,  # noqa: ARG002
        done: int = 0,  # noqa: ARG002
    ) -> Iterator[T]:
        """Yields ``items``."""
        yield from items

    def status(self, text: str) -> None:
        """Ignores ``text``."""

    def note(self, text: str) -> None:
        """Ignores ``text``."""

    def should_stop(self) -> bool:
        """Returns False."""
        return False


def stop_if_asked(progress: Progress) -> None:
    """Ends work whose progress is saved, or cheap to repeat, once a signal asked to stop.

    Raises:
        Interrupted: ``progress.should_stop()``.
    """
    if progress.should_stop():
        raise Interrupted
