"""Plans along a ranking: its most sensitive operations in float."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace

from quantpipe.errors import ConfigurationError
from quantpipe.quantization.number_format import CALIBRATED
from quantpipe.quantization.precision_plan import OperationReason, PrecisionPlan, planned_precisions
from quantpipe.quantization.sensitivity.table import SensitivityTable


def plan_from_boundary(table: SensitivityTable, boundary: int) -> PrecisionPlan:
    """Quantizes the first ``boundary + 1`` operations of the table, the least sensitive first.

    Raises:
        ConfigurationError: The boundary is not in [0, number of operations - 1].
    """
    last = len(table.rows) - 1
    if not 0 <= boundary <= last:
        raise ConfigurationError(
            f"quant boundary {boundary} is out of range",
            hint=f"the table has {last + 1} operations: give 0 to {last}",
        )
    kept = [row.name for row in table.rows[boundary + 1 :]]
    reason = f"the {boundary + 1} least sensitive of {last + 1} operations ({table.method})"
    return ranked_plan(table, kept, reason=reason)


def ranked_plan(
    table: SensitivityTable, float_operations: Collection[str], *, reason: str
) -> PrecisionPlan:
    """A plan whose operations stand in the order of the table, each with its rank and score."""
    return PrecisionPlan(
        operations=planned_precisions(
            (row.name for row in table.rows), float_operations, CALIBRATED
        ),
        reason=reason,
        why={
            row.name: OperationReason(rank=rank, score=row.score)
            for rank, row in enumerate(table.rows)
        },
    )


def explained(
    plan: PrecisionPlan,
    *,
    drops: Mapping[str, float],
    int8_ms: Mapping[str, float] | None = None,
    float_ms: Mapping[str, float] | None = None,
) -> PrecisionPlan:
    """Adds to a ranked plan what its operations were predicted to lose and to take."""
    why = {
        name: replace(
            reason,
            predicted_drop=drops[name],
            int8_ms=None if int8_ms is None else int8_ms[name],
            float_ms=None if float_ms is None else float_ms[name],
        )
        for name, reason in plan.why.items()
    }
    return replace(plan, why=why, predicted_drop=sum(drops[name] for name in plan.quantized))
