"""The fewest float operations along a ranking that keep the loss of mAP within a budget.

Plan k leaves the k most sensitive operations of the ranking in float. Bisection looks for the first
plan that meets the budget, and measures every plan that it asks about, the answer among them. The
mAP is not monotone along the ranking: neighbors differ by the noise of the images. What is found
is therefore a boundary, a plan that meets the budget beside one that does not, both measured; a
plan with fewer float operations may meet it as well.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace

from quantpipe.quantization.plans.ranked import ranked_plan
from quantpipe.quantization.plans.records import Measure
from quantpipe.quantization.precision_plan import PlanPoint, PrecisionPlan
from quantpipe.quantization.sensitivity.table import SensitivityTable


@dataclass(frozen=True, kw_only=True)
class FoundPlan:
    """A plan, and whether it meets the budget."""

    plan: PrecisionPlan
    meets: bool


def most_measurements(num_operations: int) -> int:
    """How many plans a search measures at most: all in INT8, then a bisection of the others."""
    return 1 + math.ceil(math.log2(num_operations))


def cannot_tell(all_int8: PlanPoint, max_drop: float) -> bool:
    """Whether the images leave open that INT8 throughout meets the budget.

    Measured, its drop is beyond the budget; but the drop's 95 % interval, from a bootstrap over the
    images in pairs with the float network, reaches down to it. All other plans lie between INT8
    throughout and float, so what a search would find is a choice among them by noise.
    """
    return all_int8.low <= max_drop < all_int8.drop


def search_boundary(
    table: SensitivityTable, measure: Measure, *, max_drop: float, accept_inconclusive: bool
) -> FoundPlan:
    """Returns the plan with the fewest float operations whose measured drop meets the budget.

    Args:
        table: The ranking, the least sensitive first.
        measure: Compares a plan with the float network.
        max_drop: Of mAP 50:95, as a fraction of one.
        accept_inconclusive: Take INT8 throughout where :func:`cannot_tell` that
            it breaks the budget.

    Returns:
        If no plan with at least one INT8 operation meets the budget, the one with the least drop.
    """
    measured: dict[int, PlanPoint] = {}

    def drop(num_float: int) -> float:
        measured[num_float] = measure(_plan(table, num_float))
        return measured[num_float].drop

    if drop(0) <= max_drop:
        return _found(table, measured, 0, _within(measured[0], max_drop))
    if accept_inconclusive and cannot_tell(measured[0], max_drop):
        return _found(table, measured, 0, unsure_reason(measured[0], max_drop))
    fails, meets = 0, len(table.rows)  # float throughout loses nothing, and is no plan
    while meets - fails > 1:
        middle = (fails + meets) // 2
        if drop(middle) <= max_drop:
            meets = middle
        else:
            fails = middle
    if meets == len(table.rows):
        best = min(measured, key=lambda number: (measured[number].drop, number))
        reason = f"no plan meets a drop of {points(max_drop)}; the best loses "
        return replace(_found(table, measured, best, reason + loss(measured[best])), meets=False)
    return _found(table, measured, meets, _boundary_reason(measured, meets, max_drop))


def points(fraction: float) -> str:
    """A fraction of one as points of mAP."""
    return f"{100 * fraction:.2f} points"


def loss(point: PlanPoint) -> str:
    """The measured drop and its interval in words."""
    return (
        f"{points(point.drop)} (95 % interval {100 * point.low:.2f} to {100 * point.high:.2f}) "
        f"with {point.num_float} operations in float"
    )


def unsure_reason(point: PlanPoint, max_drop: float) -> str:
    """Why INT8 throughout was taken although its measured drop is beyond the budget."""
    return (
        f"the images cannot tell the plans apart: the measured loss is {loss(point)}, beyond the "
        f"budget of {points(max_drop)}, but the interval reaches below it; every operation in INT8"
    )


def curve_of(measured: Iterable[PlanPoint]) -> tuple[PlanPoint, ...]:
    """Sorts measured plans by their number of float operations."""
    return tuple(sorted(measured, key=lambda point: (point.num_float, point.drop)))


def _plan(table: SensitivityTable, num_float: int) -> PrecisionPlan:
    kept = [row.name for row in table.rows[len(table.rows) - num_float :]]
    return ranked_plan(table, kept, reason="")


def _found(
    table: SensitivityTable, measured: dict[int, PlanPoint], num_float: int, reason: str
) -> FoundPlan:
    plan = replace(
        _plan(table, num_float),
        reason=reason,
        measured=measured[num_float],
        curve=curve_of(measured.values()),
    )
    return FoundPlan(plan=plan, meets=True)


def _within(point: PlanPoint, max_drop: float) -> str:
    return f"every operation in INT8 loses {loss(point)}, within the budget of {points(max_drop)}"


def _boundary_reason(measured: dict[int, PlanPoint], num_float: int, max_drop: float) -> str:
    return (
        f"the fewest float operations found by bisection of the ranking within a drop of "
        f"{points(max_drop)}: {loss(measured[num_float])}; one less in float loses "
        f"{points(measured[num_float - 1].drop)}"
    )
