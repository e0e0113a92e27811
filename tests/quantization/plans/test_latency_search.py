"""Searches over engines and images that are made up: what is predicted may be wrong."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from quantpipe.quantization.plans.latency_model import LatencyModel
from quantpipe.quantization.plans.latency_search import search_within_drop, search_within_latency
from quantpipe.quantization.precision_plan import PlanLatency, PlanPoint, PrecisionPlan
from quantpipe.quantization.sensitivity.table import SensitivityRow, sorted_table

NAMES = ("a", "b", "c", "d")
SHARES = {"a": 0.1, "b": 0.2, "c": 0.3, "d": 0.4}
TABLE = sorted_table(
    "output",
    [SensitivityRow(name=name, score=share) for name, share in SHARES.items()],
    baseline=None,
    weights_digest=None,
)
# d is dear in float, c is cheap.
MODEL = LatencyModel(
    int8_ms=dict.fromkeys(NAMES, 1.0),
    float_ms={"a": 1.5, "b": 1.5, "c": 1.2, "d": 3.0},
    base_ms=0.0,
    border_ms=dict.fromkeys(NAMES, 0.0),
    readers=dict.fromkeys(NAMES, frozenset()),
)


def timed(slower: float = 1.0) -> Callable[[PrecisionPlan], PlanLatency]:
    """What a plan takes: as predicted, or the float part slower."""

    def time(plan: PrecisionPlan) -> PlanLatency:
        predicted = MODEL.predicted(plan.float_operations)
        return PlanLatency(
            engine="made up",
            batch_size=1,
            predicted=predicted,
            measured=4.0 + slower * (predicted - 4.0),
            all_int8=4.0,
            all_float=7.2,
        )

    return time


def measured(all_int8: float, *, worse: float = 1.0) -> Callable[[PrecisionPlan], PlanPoint]:
    """What a plan loses: as predicted, or the mixed plans more."""

    def measure(plan: PrecisionPlan) -> PlanPoint:
        kept = plan.float_operations
        drop = all_int8 * sum(SHARES[name] for name in plan.quantized) * (worse if kept else 1.0)
        return PlanPoint(
            num_float=len(kept), map=0.5, drop=drop, low=drop, high=drop, agreement=1.0
        )

    return measure


def ratio(value: float) -> Callable[[PlanLatency], float]:
    return lambda latency: value * latency.all_int8


def test_within_a_latency_the_most_degradation_for_the_time_stays_in_float() -> None:
    found = search_within_latency(TABLE, MODEL, SHARES, measured(0.02), timed(), max_ms=ratio(1.18))
    assert found.meets
    assert set(found.plan.float_operations) == {"b", "c"}
    assert found.plan.latency is not None
    assert found.plan.latency.predicted == found.plan.latency.measured == pytest.approx(4.7)
    assert [point.num_float for point in found.plan.curve] == [0, 2]


def test_a_machine_of_another_pace_gets_the_same_plan() -> None:
    """Everything takes three times as long as when the model was fitted."""

    def time(plan: PrecisionPlan) -> PlanLatency:
        latency = timed()(plan)
        times = ("predicted", "measured", "all_int8", "all_float")
        return replace(latency, **{name: 3 * getattr(latency, name) for name in times})

    for budget in (ratio(1.18), lambda latency: 3 * 1.18 * 4.0):
        found = search_within_latency(TABLE, MODEL, SHARES, measured(0.02), time, max_ms=budget)
        assert found.meets
        assert set(found.plan.float_operations) == {"b", "c"}


def test_a_plan_that_is_slower_than_predicted_is_tried_again_with_less() -> None:
    found = search_within_latency(
        TABLE, MODEL, SHARES, measured(0.02), timed(slower=1.5), max_ms=ratio(1.18)
    )
    assert found.meets
    assert set(found.plan.float_operations) == {"c"}
    assert found.plan.latency is not None
    assert found.plan.latency.measured == pytest.approx(4.3)


def test_a_latency_that_nothing_reaches_names_the_fastest() -> None:
    found = search_within_latency(
        TABLE, MODEL, SHARES, measured(0.02), timed(), max_ms=lambda latency: 3.0
    )
    assert not found.meets
    assert not found.plan.float_operations
    assert found.plan.reason.startswith("no plan meets the latency; the fastest takes 4.000 ms")


def test_within_a_drop_the_fastest_plan_is_taken() -> None:
    found = search_within_drop(
        TABLE, MODEL, SHARES, measured(0.02), timed(), max_drop=0.0141, accept_inconclusive=False
    )
    assert found.meets
    assert set(found.plan.float_operations) == {"c"}  # d alone would do too, but takes longer


def test_a_plan_that_loses_more_than_predicted_is_tried_again_with_less() -> None:
    found = search_within_drop(
        TABLE,
        MODEL,
        SHARES,
        measured(0.02, worse=1.9),
        timed(),
        max_drop=0.0141,
        accept_inconclusive=False,
    )
    assert found.meets
    assert found.plan.measured is not None
    assert found.plan.measured.drop <= 0.0141
    assert set(found.plan.float_operations) > {"c"}


def test_a_drop_that_nothing_meets_names_the_best() -> None:
    def measure(plan: PrecisionPlan) -> PlanPoint:
        drop = 0.05 if len(plan.float_operations) < 4 else 0.01
        return PlanPoint(
            num_float=len(plan.float_operations), map=0.5, drop=drop, low=drop, high=drop,
            agreement=None,
        )  # fmt: skip

    found = search_within_drop(
        TABLE, MODEL, SHARES, measure, timed(), max_drop=0.001, accept_inconclusive=False
    )
    assert not found.meets
    assert len(found.plan.float_operations) == 4
    assert "the best loses 1.00 points" in found.plan.reason


def test_where_the_images_cannot_tell_it_is_int8() -> None:
    def measure(plan: PrecisionPlan) -> PlanPoint:
        return PlanPoint(num_float=0, map=0.5, drop=0.006, low=0.0, high=0.01, agreement=None)

    found = search_within_drop(
        TABLE, MODEL, SHARES, measure, timed(), max_drop=0.003, accept_inconclusive=True
    )
    assert (found.meets, found.plan.float_operations) == (True, ())
    assert "cannot tell the plans apart" in found.plan.reason
    assert found.plan.latency is not None
