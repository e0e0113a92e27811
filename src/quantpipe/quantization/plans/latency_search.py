"""Plans by latency: the most accurate within a time, or the fastest within a loss of mAP.

Integer programs choose by what is predicted; what they choose is measured. Where it does not meet
the budget, the program is asked again with half the room between the budget and the best that any
plan can do, and in the end with none.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

from quantpipe.quantization.plans.boundary import (
    FoundPlan,
    cannot_tell,
    curve_of,
    loss,
    points,
    unsure_reason,
)
from quantpipe.quantization.plans.integer_program import fastest, least_degradation, least_latency
from quantpipe.quantization.plans.latency_model import LatencyModel
from quantpipe.quantization.plans.ranked import ranked_plan
from quantpipe.quantization.plans.records import Measure
from quantpipe.quantization.precision_plan import PlanLatency, PlanPoint, PrecisionPlan
from quantpipe.quantization.sensitivity.table import SensitivityTable

Timing = Callable[[PrecisionPlan], PlanLatency]

_ROOM = (1.0, 0.5, 0.25, 0.0)


def most_plans() -> int:
    """How many plans a search measures at most: all in INT8, and one for every try."""
    return 1 + len(_ROOM)


def search_within_drop(
    table: SensitivityTable,
    model: LatencyModel,
    shares: Mapping[str, float],
    measure: Measure,
    time: Timing,
    *,
    max_drop: float,
    accept_inconclusive: bool,
) -> FoundPlan:
    """Returns the fastest plan whose measured drop of mAP meets the budget.

    Args:
        table: Names the operations and why they stand where they do.
        model: Of the latency.
        shares: Of each operation in the degradation of INT8.
        measure: Compares a plan with the float network.
        time: Builds and times a plan.
        max_drop: Of mAP 50:95, as a fraction of one.
        accept_inconclusive: Take INT8 throughout where the images cannot tell that
            it breaks the budget.

    Returns:
        If no plan that was tried meets the budget, the one with the least drop.
    """
    all_int8 = measure(ranked_plan(table, (), reason=""))
    if accept_inconclusive and cannot_tell(all_int8, max_drop):
        plan = ranked_plan(table, (), reason=unsure_reason(all_int8, max_drop))
        found = replace(plan, measured=all_int8, curve=(all_int8,), latency=time(plan))
        return FoundPlan(plan=found, meets=True)
    total = max(all_int8.drop, 0.0)
    degradation = {name: share * total for name, share in shares.items()}
    tried: dict[frozenset[str], PlanPoint] = {frozenset(): all_int8}
    for room in _ROOM:
        kept = least_latency(model, degradation, max_degradation=max_drop * room)
        if kept not in tried or not kept:
            tried[kept] = measure(ranked_plan(table, kept, reason=""))
        if tried[kept].drop <= max_drop:
            return _found(table, kept, tried, time, _fastest_reason(tried[kept], max_drop))
    kept = min(tried, key=lambda names: (tried[names].drop, len(names)))
    reason = f"no plan meets a drop of {points(max_drop)}; the best loses {loss(tried[kept])}"
    return replace(_found(table, kept, tried, time, reason), meets=False)


def search_within_latency(
    table: SensitivityTable,
    model: LatencyModel,
    shares: Mapping[str, float],
    measure: Measure,
    time: Timing,
    *,
    max_ms: Callable[[PlanLatency], float],
) -> FoundPlan:
    """Returns the plan of the least predicted degradation whose measured latency meets the budget.

    Args:
        table: Names the operations and why they stand where they do.
        model: Of the latency.
        shares: Of each operation in the degradation of INT8.
        measure: Compares the chosen plan, and INT8 throughout, with the float network.
        time: Builds and times a plan.
        max_ms: The budget, given what else was timed in turn with a plan.

    Returns:
        If no plan that was tried meets the budget, the fastest of them.
    """
    timed = _timed_plans(table, model, shares, time, max_ms)
    meeting = [kept for kept, latency in timed.items() if _meets(latency, max_ms)]
    chosen = (
        max(meeting, key=lambda kept: sum(shares[name] for name in kept))
        if meeting
        else min(timed, key=lambda kept: _milliseconds(timed[kept]))
    )
    tried = {kept: measure(ranked_plan(table, kept, reason="")) for kept in {frozenset(), chosen}}
    shown = _shown_latency(timed[chosen], max_ms(timed[chosen]))
    reason = (
        f"the least predicted loss of mAP within the latency: {shown}; it loses "
        f"{loss(tried[chosen])}"
        if meeting
        else f"no plan meets the latency; the fastest takes {shown}"
    )
    found = _found(table, chosen, tried, lambda _: timed[chosen], reason)
    return replace(found, meets=bool(meeting))


def _timed_plans(
    table: SensitivityTable,
    model: LatencyModel,
    shares: Mapping[str, float],
    time: Timing,
    max_ms: Callable[[PlanLatency], float],
) -> dict[frozenset[str], PlanLatency]:
    """Times INT8 throughout, and what the programs choose until one of it meets the budget."""
    all_int8 = time(ranked_plan(table, (), reason=""))
    timed: dict[frozenset[str], PlanLatency] = {frozenset(): all_int8}
    quickest = fastest(model)
    # The machine may have been slower or faster when the model was fitted.
    pace = model.predicted(()) / all_int8.all_int8
    least, budget = model.predicted(quickest), max_ms(all_int8) * pace
    for room in _ROOM:
        kept = least_degradation(model, shares, max_ms=least + (budget - least) * room) or quickest
        if kept not in timed:
            timed[kept] = time(ranked_plan(table, kept, reason=""))
        if _meets(timed[kept], max_ms):
            break
    return timed


def _meets(latency: PlanLatency, max_ms: Callable[[PlanLatency], float]) -> bool:
    return _milliseconds(latency) <= max_ms(latency)


def _found(
    table: SensitivityTable,
    kept: frozenset[str],
    tried: Mapping[frozenset[str], PlanPoint],
    time: Timing,
    reason: str,
) -> FoundPlan:
    plan = ranked_plan(table, kept, reason=reason)
    plan = replace(plan, measured=tried[kept], curve=curve_of(tried.values()), latency=time(plan))
    return FoundPlan(plan=plan, meets=True)


def _milliseconds(latency: PlanLatency) -> float:
    assert latency.measured is not None
    return latency.measured


def _shown_latency(latency: PlanLatency, budget: float) -> str:
    return (
        f"{latency.measured:.3f} ms of at most {budget:.3f} (predicted {latency.predicted:.3f}, "
        f"{latency.all_int8:.3f} in INT8 throughout)"
    )


def _fastest_reason(point: PlanPoint, max_drop: float) -> str:
    return f"the fastest predicted plan within a drop of {points(max_drop)}: {loss(point)}"
