from __future__ import annotations

from collections import Counter
from itertools import pairwise, permutations
from typing import Any

import numpy as np
import pytest

from quantpipe.engines.benchmark import measure_latency, measure_throughput
from quantpipe.progress import Silent


class Clock:
    """Advances only when a run says so."""

    def __init__(self) -> None:
        self.now = 0

    def __call__(self) -> int:
        return self.now


def _timed(num_warmup: Any, num_runs: Any, costs: Any) -> Any:
    clock, order = Clock(), []

    def run(name: str) -> Any:
        def call() -> Any:
            order.append(name)
            count = order.count(name) - 1
            clock.now += int(costs(name, count) * 1e6)

        return call

    result = measure_latency(
        {name: run(name) for name in "abc"},
        num_warmup=num_warmup,
        num_runs=num_runs,
        progress=Silent(),
        clock=clock,
    )
    return result, order


def test_percentiles_are_of_the_counted_rounds_in_milliseconds() -> None:
    cost = {"a": 1.0, "b": 10.0, "c": 100.0}
    # The warm-up rounds are a thousand times slower.
    result, _ = _timed(3, 50, lambda name, n: cost[name] * (1000 if n < 3 else (1 + (n - 3) / 100)))
    for name, base in cost.items():
        values = base * (1 + np.arange(50) / 100)
        expected = np.percentile(values, [50, 95, 99])
        found = result[name]
        np.testing.assert_allclose([found.p50, found.p95, found.p99], expected, rtol=1e-6)
        assert found.fastest == pytest.approx(values.min())


def test_each_round_runs_all_and_none_always_follows_the_same() -> None:
    _, order = _timed(0, 40, lambda name, n: 1.0)
    rounds = [order[start : start + 3] for start in range(0, 120, 3)]
    assert all(sorted(names) == ["a", "b", "c"] for names in rounds)
    pairs = Counter(pairwise(order))
    assert {pair for pair in pairs if pair[0] != pair[1]} == set(permutations("abc", 2))
    assert max(pairs.values()) < 30


def test_throughput_is_of_the_median_run_after_the_first() -> None:
    clock, taken = Clock(), iter([900.0, 4.0, 8.0, 100.0])

    def run() -> None:
        clock.now += int(next(taken) * 1e6)

    found = measure_throughput(
        {"a": run}, num_images=32, num_runs=3, progress=Silent(), clock=clock
    )
    assert found == pytest.approx({"a": 32 / 0.008})
