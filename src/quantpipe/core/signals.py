"""Stopping when asked: the first signal lets the work save, the second ends it at once."""

from __future__ import annotations

import math
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

from quantpipe.errors import Interrupted

# Between two looks for a signal that came elsewhere: each may cost a question to a file server.
_LOOK_SECONDS = 0.5


class StopAtOnce(BaseException):
    """The second signal: no library that catches exceptions can take it for a fault of its own."""


class StopRequest:
    """Whether, and by which signal, the run was asked to stop.

    Args:
        elsewhere: The signal that came to somebody else who asks this run to stop, if one did.
    """

    def __init__(self, elsewhere: Callable[[], int | None] = lambda: None) -> None:
        self.signal_number: int | None = None
        self._at_once = False
        self._elsewhere = elsewhere
        self._looked = -math.inf

    def __call__(self) -> bool:
        """Whether a signal came."""
        now = time.monotonic()
        if self.signal_number is None and now - self._looked > _LOOK_SECONDS:
            self._looked = now
            self.signal_number = self._elsewhere()
        return self.signal_number is not None

    def raise_if_set(self) -> None:
        """Raises :class:`Interrupted` once a signal came."""
        if self() and self.signal_number is not None:
            raise Interrupted(self.signal_number)

    def handle(self, signal_number: int, frame: FrameType | None) -> None:  # noqa: ARG002
        """The handler: remembers the first signal, raises on the second."""
        if self.signal_number is not None:
            self._at_once = True
            raise StopAtOnce
        self.signal_number = signal_number

    @contextmanager
    def explained(self) -> Iterator[None]:
        """Raises :class:`Interrupted`, with the first signal's code, for whatever signals ended.

        Work that noticed the request names no signal, and a library that was torn out of its work
        may raise an error of its own.
        """
        try:
            yield
        except (StopAtOnce, Interrupted) as error:
            raise Interrupted(self.signal_number or signal.SIGTERM) from error
        except Exception as error:
            if not self._at_once or self.signal_number is None:
                raise
            raise Interrupted(self.signal_number) from error


@contextmanager
def stop_on_signals(
    elsewhere: Callable[[], int | None] = lambda: None,
) -> Iterator[StopRequest]:
    """Handles SIGINT and SIGTERM while the block runs (in the main thread only)."""
    request = StopRequest(elsewhere)
    if threading.current_thread() is not threading.main_thread():
        yield request
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    for number in before:
        signal.signal(number, request.handle)
    try:
        yield request
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
