"""Integer programs against every plan there is."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain, combinations

import numpy as np
import pytest

from quantpipe.quantization.plans.integer_program import fastest, least_degradation, least_latency
from quantpipe.quantization.plans.latency_model import LatencyModel

SEEDS = pytest.mark.parametrize("seed", range(12))


def problem(seed: int, count: int = 9) -> tuple[LatencyModel, dict[str, float]]:
    """A random graph in which each operation is read by a few later ones."""
    rng = np.random.default_rng(seed)
    names = [f"op{i}" for i in range(count)]
    readers = {
        name: frozenset(rng.choice(names[i + 1 :], size=min(2, count - i - 1)).tolist())
        if i + 1 < count
        else frozenset()
        for i, name in enumerate(names)
    }
    readers["op3"] |= {"op3"}  # a module that runs twice in a row
    int8 = rng.uniform(0.1, 1.0, count)
    model = LatencyModel(
        int8_ms=dict(zip(names, int8.tolist(), strict=True)),
        float_ms=dict(zip(names, (int8 * rng.uniform(0.8, 3.0, count)).tolist(), strict=True)),
        base_ms=0.7,
        border_ms=dict(zip(names, rng.uniform(0.0, 0.4, count).tolist(), strict=True)),
        readers=readers,
    )
    return model, dict(zip(names, (rng.exponential(size=count) ** 2).tolist(), strict=True))


def every_plan(model: LatencyModel) -> Iterator[frozenset[str]]:
    names = list(model.int8_ms)
    subsets = chain.from_iterable(combinations(names, size) for size in range(len(names) + 1))
    return (frozenset(kept) for kept in subsets)


def degradation_of(degradation: dict[str, float], kept: frozenset[str]) -> float:
    return sum(value for name, value in degradation.items() if name not in kept)


@SEEDS
@pytest.mark.parametrize("share", [0.02, 0.2, 0.5, 0.9])
def test_the_least_degradation_within_a_latency(seed: int, share: float) -> None:
    model, degradation = problem(seed)
    times = {kept: model.predicted(kept) for kept in every_plan(model)}
    budget = min(times.values()) * (1 - share) + max(times.values()) * share
    best = min(degradation_of(degradation, kept) for kept, time in times.items() if time <= budget)
    found = least_degradation(model, degradation, max_ms=budget)
    assert found is not None
    assert times[found] <= budget + 1e-6
    tolerance = 1e-5 * sum(degradation.values())
    assert degradation_of(degradation, found) == pytest.approx(best, abs=tolerance)


@SEEDS
@pytest.mark.parametrize("share", [0.0, 0.05, 0.3, 1.0])
def test_the_least_latency_within_a_degradation(seed: int, share: float) -> None:
    model, degradation = problem(seed)
    budget = share * sum(degradation.values())
    times = {
        kept: model.predicted(kept)
        for kept in every_plan(model)
        if degradation_of(degradation, kept) <= budget + 1e-9
    }
    found = least_latency(model, degradation, max_degradation=budget)
    assert degradation_of(degradation, found) <= budget + 1e-6
    assert model.predicted(found) == pytest.approx(min(times.values()), rel=1e-4)


@SEEDS
def test_the_fastest_plan_of_all(seed: int) -> None:
    model, _ = problem(seed)
    best = min(model.predicted(kept) for kept in every_plan(model))
    assert model.predicted(fastest(model)) == pytest.approx(best, rel=1e-4)


def test_no_plan_is_faster_than_the_fastest() -> None:
    model, degradation = problem(0)
    assert (
        least_degradation(model, degradation, max_ms=0.5 * model.predicted(fastest(model))) is None
    )


def test_borders_keep_neighbors_together() -> None:
    """b alone in float would be cheap, were it not for its two borders."""
    model = LatencyModel(
        int8_ms={"a": 1.0, "b": 1.0, "c": 1.0},
        float_ms={"a": 1.3, "b": 1.1, "c": 1.3},
        base_ms=0.0,
        border_ms={"a": 1.0, "b": 1.0, "c": 1.0},
        readers={"a": frozenset({"b"}), "b": frozenset({"c"}), "c": frozenset()},
    )
    degradation = {"a": 0.0, "b": 1.0, "c": 0.0}
    assert model.predicted({"b"}) == pytest.approx(5.1)
    assert least_latency(model, degradation, max_degradation=0.0) == {"a", "b", "c"}


def test_operations_that_read_one_result_pay_its_border_once() -> None:
    model = LatencyModel(
        int8_ms={"a": 1.0, "b": 1.0, "c": 1.0},
        float_ms={"a": 2.0, "b": 1.0, "c": 1.0},
        base_ms=0.0,
        border_ms={"a": 0.5, "b": 9.0, "c": 9.0},
        readers={"a": frozenset({"b", "c"}), "b": frozenset(), "c": frozenset()},
    )
    assert model.predicted({"b", "c"}) == model.predicted({"b"}) == pytest.approx(3.5)
    assert least_degradation(model, {"a": 0.0, "b": 1.0, "c": 1.0}, max_ms=3.5) == frozenset("bc")
