"""Timing engines side by side, so that a busy moment of the machine hits all of them alike."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from quantpipe.progress import Progress

_NANOSECONDS_PER_MILLISECOND = 1e6


@dataclass(frozen=True, kw_only=True)
class Latency:
    """How long one run takes, in milliseconds.

    ``fastest`` is what it takes when nothing else disturbs it, which is what two engines are
    compared by; the percentiles are what a user of this machine sees.
    """

    fastest: float
    p50: float
    p95: float
    p99: float


def measure_latency(
    runs: Mapping[str, Callable[[], object]],
    *,
    num_warmup: int,
    num_runs: int,
    progress: Progress,
    pause: float = 0.0,
    clock: Callable[[], int] = time.perf_counter_ns,
) -> dict[str, Latency]:
    """Times several callables in turn, one run of each per round.

    Each round has an order of its own, so that none always follows the same other.

    Args:
        runs: What to time, by name; a call returns when its result is there.
        num_warmup: Rounds that are not counted.
        num_runs: Rounds that are.
        progress: Shows the rounds.
        pause: Seconds before each run: threads of some libraries spin on for a while after theirs,
            at the cost of whatever comes next.
        clock: Nanoseconds, monotonic.
    """
    durations: dict[str, list[int]] = {name: [] for name in runs}
    for name, elapsed in _timed(runs, num_warmup, num_runs, progress, clock, pause):
        durations[name].append(elapsed)
    return {name: _summary(values) for name, values in durations.items()}


def measure_throughput(
    runs: Mapping[str, Callable[[], object]],
    *,
    num_images: int,
    num_runs: int,
    progress: Progress,
    clock: Callable[[], int] = time.perf_counter_ns,
) -> dict[str, float]:
    """Returns images per second of several callables, the median of runs in turn.

    Args:
        runs: What to time, by name; a call computes ``num_images``, several at once where it can.
        num_images: Images of a call.
        num_runs: Rounds that are counted, after one that is not.
        progress: Shows the rounds.
        clock: Nanoseconds, monotonic.
    """
    durations: dict[str, list[int]] = {name: [] for name in runs}
    for name, elapsed in _timed(runs, 1, num_runs, progress, clock):
        durations[name].append(elapsed)
    return {name: num_images * 1e9 / float(np.median(taken)) for name, taken in durations.items()}


def _timed(
    runs: Mapping[str, Callable[[], object]],
    num_warmup: int,
    num_runs: int,
    progress: Progress,
    clock: Callable[[], int],
    pause: float = 0.0,
) -> Iterator[tuple[str, int]]:
    """Yields (name, nanoseconds) of every run that counts."""
    assert num_runs > 0
    names = list(runs)
    order = np.random.default_rng(0)
    rounds = range(-num_warmup, num_runs)
    for number in progress.track(rounds, "timing", total=num_warmup + num_runs):
        for index in order.permutation(len(names)):
            name = names[index]
            time.sleep(pause)
            start = clock()
            runs[name]()
            elapsed = clock() - start
            if number >= 0:
                yield name, elapsed


def _summary(nanoseconds: list[int]) -> Latency:
    values = np.asarray(nanoseconds, dtype=np.float64) / _NANOSECONDS_PER_MILLISECOND
    p50, p95, p99 = np.percentile(values, [50, 95, 99])
    return Latency(fastest=float(values.min()), p50=float(p50), p95=float(p95), p99=float(p99))
