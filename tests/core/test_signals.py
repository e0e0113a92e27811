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
        with pytest.raises(Interrupted), stop.explained():
            os.kill(os.getpid(), number)
    assert asked.value.exit_code == code
    assert signal.getsignal(number) is before


def export(caught: type[BaseException]) -> None:
    """A library at work when a signal comes."""
    try:
        os.kill(os.getpid(), signal.SIGTERM)
    except caught as error:
        raise RuntimeError("conversion failed") from error


def test_the_second_signal_gets_past_a_library_that_catches_errors() -> None:
    with stop_on_signals() as stop:
        os.kill(os.getpid(), signal.SIGTERM)
        with pytest.raises(Interrupted) as asked, stop.explained():
            export(Exception)
    assert asked.value.exit_code == 143


def test_what_a_library_makes_of_the_second_signal_is_no_fault_of_its_own() -> None:
    with stop_on_signals() as stop:
        os.kill(os.getpid(), signal.SIGTERM)
        with pytest.raises(Interrupted), stop.explained():
            export(BaseException)


def test_a_fault_after_the_first_signal_stays_a_fault() -> None:
    with stop_on_signals() as stop:
        os.kill(os.getpid(), signal.SIGTERM)
        with pytest.raises(RuntimeError), stop.explained():
            raise RuntimeError("conversion failed")


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
