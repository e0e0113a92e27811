"""Searching a plan within a budget: what will be measured is said before, what came out after."""

from __future__ import annotations

from dataclasses import dataclass

from quantpipe.core.stage import Context
from quantpipe.errors import ConfigurationError
from quantpipe.quantization.plans.additive_model import predicted_drops, shares_of_degradation
from quantpipe.quantization.plans.boundary import (
    FoundPlan,
    most_measurements,
    search_boundary,
)
from quantpipe.quantization.plans.latency_search import (
    most_plans,
    search_within_drop,
    search_within_latency,
)
from quantpipe.quantization.plans.ranked import explained
from quantpipe.quantization.plans.records import Measure, plan_records, remembering
from quantpipe.quantization.precision_plan import (
    PlanLatency,
    PrecisionPlan,
    save_plan,
)
from quantpipe.quantization.sensitivity.table import SensitivityTable
from quantpipe.stages.partial_quant.accuracy import PlanAccuracy
from quantpipe.stages.partial_quant.latency import PlanTimer


@dataclass(frozen=True, kw_only=True)
class Budget:
    """What a plan may cost.

    Attributes:
        max_map_drop: Of mAP 50:95 against float.
        max_latency_ratio: In latencies of INT8 throughout; goes before ``max_map_drop``.
        max_latency_ms: Likewise.
        accept_inconclusive: Whether INT8 throughout is taken where the images cannot tell that it
            loses more.
    """

    max_map_drop: float | None
    max_latency_ratio: float | None
    max_latency_ms: float | None
    accept_inconclusive: bool

    @property
    def of_latency(self) -> bool:
        """Whether latency is bounded, and not the loss of mAP."""
        return self.max_latency_ratio is not None or self.max_latency_ms is not None

    @property
    def key(self) -> str:
        """The setting that bounds."""
        if not self.of_latency:
            return "max_map_drop"
        return "max_latency_ms" if self.max_latency_ratio is None else "max_latency_ratio"

    def milliseconds(self, timed: PlanLatency) -> float:
        """The latency that a plan may have, beside what was timed in turn with it."""
        if self.max_latency_ms is not None:
            return self.max_latency_ms
        assert self.max_latency_ratio is not None
        return self.max_latency_ratio * timed.all_int8


def search_plan(
    table: SensitivityTable, budget: Budget, accuracy: PlanAccuracy, timer: PlanTimer | None
) -> PrecisionPlan:
    """Returns the best plan within the budget, along the ranking or, with a bench, by latency.

    Raises:
        ConfigurationError: None was found; names the file that holds the best one.
        Interrupted: A signal asked to stop; what was measured is kept.
    """
    context = accuracy.context
    assert accuracy.loaded.scales is not None
    records = plan_records(context.progress_folder / "plans", accuracy.loaded.scales)
    _announce(table, accuracy, timer)
    found = _found(table, budget, remembering(accuracy.measure, records), timer)
    plan = _explained(found.plan, table, timer)
    _show(plan, context)
    if not found.meets:
        path = context.progress_folder / "best_plan.json"
        save_plan(path, plan)
        raise ConfigurationError(
            plan.reason,
            path=budget.key,
            hint=f"raise it, or take that plan with {context.step}.plan_file={path}",
        )
    return plan


def _found(
    table: SensitivityTable, budget: Budget, measure: Measure, timer: PlanTimer | None
) -> FoundPlan:
    if timer is None:
        assert budget.max_map_drop is not None
        return search_boundary(
            table,
            measure,
            max_drop=budget.max_map_drop,
            accept_inconclusive=budget.accept_inconclusive,
        )
    arguments = (table, timer.model, shares_of_degradation(table), measure, timer.time)
    if budget.of_latency:
        return search_within_latency(*arguments, max_ms=budget.milliseconds)
    assert budget.max_map_drop is not None
    return search_within_drop(
        *arguments, max_drop=budget.max_map_drop, accept_inconclusive=budget.accept_inconclusive
    )


def _announce(table: SensitivityTable, accuracy: PlanAccuracy, timer: PlanTimer | None) -> None:
    """How many measurements there will be at most, and how long they will take."""
    most = 1 + (most_measurements(len(table.rows)) if timer is None else most_plans())
    seconds = accuracy.seconds()
    line = (
        f"{accuracy.context.step}: at most {most} measurements (float among them) on "
        f"{len(accuracy.dataset.images)} images, {seconds:.1f} s each: {most * seconds:.0f} s"
    )
    if timer is not None:
        line += f"; at most {4 + most_plans()} engines to build and time"
    accuracy.context.progress.note(line)


def _explained(
    plan: PrecisionPlan, table: SensitivityTable, timer: PlanTimer | None
) -> PrecisionPlan:
    """The plan with what was predicted of each operation."""
    all_int8 = next(point for point in plan.curve if point.num_float == 0)
    drops = predicted_drops(shares_of_degradation(table), all_int8.drop)
    if timer is None:
        return explained(plan, drops=drops)
    model = timer.model
    return explained(plan, drops=drops, int8_ms=model.int8_ms, float_ms=model.float_ms)


def _show(plan: PrecisionPlan, context: Context) -> None:
    for point in plan.curve:
        agreement = "" if point.agreement is None else f", agreement {point.agreement:.3f}"
        context.progress.note(
            f"{context.step}: {point.num_float} in float: mAP {100 * point.map:.2f}, drop "
            f"{100 * point.drop:.2f} ({100 * point.low:.2f} to {100 * point.high:.2f}){agreement}"
        )
    if plan.latency is not None and plan.latency.measured is not None:
        timed = plan.latency
        context.progress.note(
            f"{context.step}: {timed.engine}, batch {timed.batch_size}: predicted "
            f"{timed.predicted:.3f} ms, measured {timed.measured:.3f} ms; INT8 throughout "
            f"{timed.all_int8:.3f} ms, float throughout {timed.all_float:.3f} ms"
        )
