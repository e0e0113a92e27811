from __future__ import annotations

import os
import signal
import threading

import pytest

from quantpipe.core.signals import StopRequest, stop_on_signals
from quantpipe.errors import Interrupted


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_the_first_signal_asks_and_the_second_ends(number: signal.Signals, code: int) -> None:
    before = signal.getsignal(number)
    with stop_on_signals() as stop:
        assert not stop()
        os.kill(os.getpid(), number)
        assert stop()
        with pytest.raises(Interrupted) as asked:
            stop.raise_if_set()
        with pytest.raises(Interrupted):
            os.kill(os.getpid(), number)
    assert asked.value.exit_code == code
    assert signal.getsignal(number) is before


def test_another_thread_is_left_without_handlers() -> None:
    before = signal.getsignal(signal.SIGTERM)
    seen: list[bool] = []

    def work() -> None:
        with stop_on_signals() as stop:
            seen.append(stop())
            seen.append(signal.getsignal(signal.SIGTERM) is before)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [False, True]


def test_nothing_is_raised_before_a_signal() -> None:
    StopRequest().raise_if_set()
