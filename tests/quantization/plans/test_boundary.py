"""Bisection against brute force over every plan of the ranking."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest

from quantpipe.quantization.plans.boundary import (
    cannot_tell,
    most_measurements,
    search_boundary,
)
from quantpipe.quantization.plans.records import plan_records, remembering
from quantpipe.quantization.precision_plan import PlanPoint, PrecisionPlan
from quantpipe.quantization.scale_cache import ScaleCache
from quantpipe.quantization.sensitivity.table import SensitivityRow, SensitivityTable, sorted_table


def ranking(count: int) -> SensitivityTable:
    rows = [SensitivityRow(name=f"op{i}", score=float(i)) for i in range(count)]
    return sorted_table("output", rows, baseline=None, weights_digest=None)


class Curve:
    """Measures plans of a ranking: drops by the number of float operations."""

    def __init__(self, drops: Sequence[float], *, half_width: float = 0.0) -> None:
        self._drops, self._half_width = drops, half_width
        self.asked: list[int] = []

    def __call__(self, plan: PrecisionPlan) -> PlanPoint:
        kept = plan.float_operations
        names = list(plan.operations)
        assert set(kept) == set(names[len(names) - len(kept) :])  # the most sensitive ones
        self.asked.append(len(kept))
        drop = self._drops[len(kept)]
        low, high = drop - self._half_width, drop + self._half_width
        return PlanPoint(
            num_float=len(kept), map=0.5 - drop, drop=drop, low=low, high=high, agreement=None
        )


def monotone(count: int, seed: int) -> list[float]:
    steps = np.random.default_rng(seed).exponential(size=count) ** 3
    drops: list[float] = (0.05 * np.cumsum(steps[::-1])[::-1] / steps.sum()).tolist()
    return drops


@pytest.mark.parametrize("count", [1, 2, 3, 8, 59])
@pytest.mark.parametrize("budget", [0.0, 0.001, 0.01, 0.03, 0.2])
def test_on_a_monotone_curve_it_finds_what_brute_force_finds(count: int, budget: float) -> None:
    for seed in range(10):
        drops = monotone(count, seed)
        meeting = [number for number, drop in enumerate(drops) if drop <= budget]
        measure = Curve(drops)
        found = search_boundary(ranking(count), measure, max_drop=budget, accept_inconclusive=False)
        assert found.meets == bool(meeting)
        best = meeting[0] if meeting else int(np.argmin(drops))
        assert len(found.plan.float_operations) == best
        assert len(measure.asked) == len(set(measure.asked)) <= most_measurements(count)


def test_on_a_noisy_curve_it_finds_a_measured_boundary() -> None:
    differs = 0
    for seed in range(40):
        noise = np.random.default_rng(seed).normal(scale=0.004, size=59)
        drops = (np.array(monotone(59, seed)) + noise).tolist()
        meeting = [number for number, drop in enumerate(drops) if drop <= 0.01]
        found = search_boundary(ranking(59), Curve(drops), max_drop=0.01, accept_inconclusive=False)
        chosen = len(found.plan.float_operations)
        assert found.plan.measured is not None
        assert found.plan.measured.drop == drops[chosen]
        if found.meets:
            assert drops[chosen] <= 0.01
            assert chosen == 0 or drops[chosen - 1] > 0.01
            assert chosen >= meeting[0]
            differs += chosen != meeting[0]
        else:
            measured = [point.num_float for point in found.plan.curve]
            assert drops[chosen] == min(drops[number] for number in measured)
    assert differs  # or these curves would be no test of the noise


def test_the_curve_holds_every_measured_plan_in_order() -> None:
    measure = Curve(monotone(59, 3))
    plan = search_boundary(ranking(59), measure, max_drop=0.005, accept_inconclusive=False).plan
    assert [point.num_float for point in plan.curve] == sorted(measure.asked)
    assert plan.why["op58"].rank == 58


def test_all_in_int8_is_measured_once_where_it_meets_the_budget() -> None:
    measure = Curve([0.002, 0.001, 0.0])
    found = search_boundary(ranking(3), measure, max_drop=0.003, accept_inconclusive=True)
    assert measure.asked == [0]
    assert not found.plan.float_operations
    assert "within the budget of 0.30 points" in found.plan.reason


def test_where_the_images_cannot_tell_it_is_int8_and_says_so() -> None:
    wide = Curve([0.006, 0.004, 0.001, 0.001], half_width=0.004)
    found = search_boundary(ranking(4), wide, max_drop=0.003, accept_inconclusive=True)
    assert (found.meets, found.plan.float_operations) == (True, ())
    assert "cannot tell the plans apart" in found.plan.reason
    assert "0.60 points (95 % interval 0.20 to 1.00)" in found.plan.reason
    searched = search_boundary(ranking(4), wide, max_drop=0.003, accept_inconclusive=False)
    assert len(searched.plan.float_operations) == 2


def test_an_interval_beyond_the_budget_is_searched() -> None:
    narrow = Curve([0.006, 0.004, 0.001, 0.001], half_width=0.001)
    found = search_boundary(ranking(4), narrow, max_drop=0.003, accept_inconclusive=True)
    assert len(found.plan.float_operations) == 2
    assert "cannot tell" not in found.plan.reason


@pytest.mark.parametrize(
    ("drop", "low", "unsure"),
    [(0.002, -0.001, False), (0.004, 0.002, True), (0.004, 0.003, True), (0.004, 0.0031, False)],
)
def test_what_the_images_leave_open(drop: float, low: float, unsure: bool) -> None:
    point = PlanPoint(num_float=0, map=0.5, drop=drop, low=low, high=drop, agreement=None)
    assert cannot_tell(point, 0.003) is unsure


def test_without_a_plan_that_meets_the_best_measured_one_is_named() -> None:
    found = search_boundary(
        ranking(4), Curve([0.03, 0.02, 0.02, 0.01]), max_drop=0.001, accept_inconclusive=False
    )
    assert not found.meets
    assert len(found.plan.float_operations) == 3
    assert found.plan.reason.startswith("no plan meets a drop of 0.10 points; the best loses 1.00")


def _unused(plan: PrecisionPlan) -> PlanPoint:
    raise AssertionError("everything is known")


def test_a_search_that_was_stopped_measures_nothing_twice(
    scales: ScaleCache, tmp_path: Path
) -> None:
    records = plan_records(tmp_path, scales)
    curve = Curve(monotone(59, 1))

    class Stopped(Exception):
        pass

    def stops_after(count: int) -> Callable[[PrecisionPlan], PlanPoint]:
        def measure(plan: PrecisionPlan) -> PlanPoint:
            if len(curve.asked) == count:
                raise Stopped
            return curve(plan)

        return measure

    def search(measure: Callable[[PrecisionPlan], PlanPoint]) -> object:
        asked = remembering(measure, records)
        return search_boundary(ranking(59), asked, max_drop=0.005, accept_inconclusive=False)

    with pytest.raises(Stopped):
        search(stops_after(3))
    first = search(curve)
    assert len(curve.asked) == len(set(curve.asked))
    assert search(_unused) == first
