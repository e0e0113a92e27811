import io
import itertools
from collections.abc import Iterator

import pytest
from rich.console import Console

from quantpipe.progress import Progress
from quantpipe.report.progress import LineProgress, TerminalProgress, watching


class Clock:
    """Seconds that only the test moves."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def _never() -> bool:
    return False


def _lines(stream: io.StringIO) -> list[str]:
    return stream.getvalue().splitlines()


def _line_progress() -> tuple[LineProgress, io.StringIO, Clock]:
    stream, clock = io.StringIO(), Clock()
    return LineProgress(stream, _never, interval=10, clock=clock), stream, clock


def test_a_line_every_ten_seconds_and_one_at_the_end() -> None:
    progress, stream, clock = _line_progress()
    for item in progress.track(range(50), "calibrate"):
        clock.now += 0.5
        progress.status(f"batch {item}")
    assert _lines(stream) == [
        "calibrate 20/50, 10 s elapsed, 15 s left, batch 19",
        "calibrate 40/50, 20 s elapsed, 5.0 s left, batch 39",
        "calibrate 50/50 in 25 s, batch 49",
    ]


def test_a_resumed_bar_counts_what_was_done_but_not_its_time() -> None:
    progress, stream, clock = _line_progress()
    for _ in progress.track(range(40), "train", done=60):
        clock.now += 5
    assert _lines(stream)[0] == "train 62/100, 10 s elapsed, 3:10 left"
    assert _lines(stream)[-1] == "train 100/100 in 3:20"


def test_nested_bars_share_a_line_and_short_ones_leave_none() -> None:
    progress, stream, clock = _line_progress()
    for _ in progress.track(range(3), "epoch"):
        for _ in progress.track(iter("abcd"), "batch", total=4):
            clock.now += 1.5
        progress.status("loss 2.0")
    assert _lines(stream) == [
        "epoch 1/3 > batch 3/4, 10 s elapsed, 21 s left, loss 2.0",
        "epoch 3/3 in 18 s, loss 2.0",
    ]


def test_unknown_length() -> None:
    progress, stream, clock = _line_progress()
    for _ in progress.track(itertools.islice(itertools.count(), 3), "read"):
        clock.now += 10
    assert _lines(stream)[0] == "read 1/?, 10 s elapsed"


def test_lines_hold_no_control_characters() -> None:
    progress, stream, _ = _line_progress()
    progress.note("image\x1b[2J\r\nname\x07.jpg")
    for _ in progress.track([1], "a\x1b]0;b"):
        progress.status("\x08c")
    assert _lines(stream) == ["image?[2J name?.jpg", "a?]0;b 1/1 in 0.0 s, ?c"]


def test_an_error_closes_the_bar_where_it_stood() -> None:
    progress, stream, _ = _line_progress()

    def fail() -> None:
        for item in progress.track(range(5), "work"):
            if item == 2:
                raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert _lines(stream) == ["work 2/5 in 0.0 s"]
    assert list(progress.track([7], "next")) == [7]


def _terminal() -> tuple[Console, io.StringIO]:
    stream = io.StringIO()
    return Console(file=stream, force_terminal=True, width=120, _environ={}), stream


def test_terminal_shows_bar_count_times_and_status() -> None:
    console, stream = _terminal()
    progress = TerminalProgress(console, _never)
    for _ in progress.track(["x"] * 3, "calibrate [3]", done=2):
        progress.status("amax [1.5]")
    printed = stream.getvalue()
    assert "calibrate [3]" in printed  # brackets are text, not markup
    assert "5/5" in printed
    assert "amax [1.5]" in printed


def test_terminal_bars_nest_and_the_outer_one_stays() -> None:
    console, stream = _terminal()
    progress = TerminalProgress(console, _never)
    for _ in progress.track(range(2), "epoch"):
        assert list(progress.track(range(3), "batch")) == [0, 1, 2]
        progress.note("a note with \x1b[31mcolor")
    last_frame = stream.getvalue().rsplit("\x1b[2K", 1)[-1]
    assert "epoch" in last_frame
    assert "2/2" in last_frame
    assert "batch" not in last_frame
    assert "a note with ?[31mcolor" in stream.getvalue()
    assert stream.getvalue().endswith("\x1b[?25h")  # the cursor is back


def _interrupted_walk(progress: Progress) -> Iterator[int]:
    yield from progress.track(range(9), "walk")


def test_leaving_the_block_stops_drawing_even_if_a_bar_is_open() -> None:
    console, stream = _terminal()
    with watching(_never, console) as progress:
        walk = _interrupted_walk(progress)
        next(walk)
    assert stream.getvalue().endswith("\x1b[?25h")
    drawn = stream.getvalue()
    next(walk)
    del walk
    assert stream.getvalue() == drawn


def test_the_kind_follows_the_console_and_stop_is_asked_each_time() -> None:
    answers = iter([False, True])
    plain = Console(file=io.StringIO())
    with watching(lambda: next(answers), plain) as progress:
        assert isinstance(progress, LineProgress)
        assert [progress.should_stop(), progress.should_stop()] == [False, True]
    with watching(lambda: True, _terminal()[0]) as progress:
        assert isinstance(progress, TerminalProgress)
        assert progress.should_stop()
    dumb = Console(file=io.StringIO(), force_terminal=True, _environ={"TERM": "dumb"})
    with watching(_never, dumb) as progress:
        assert isinstance(progress, LineProgress)
