"""The report's pictures, made from the summary and the files that the steps left."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path

from quantpipe.quantization.precision_plan import PrecisionPlan, load_plan
from quantpipe.quantization.sensitivity.table import SensitivityTable, load_table
from quantpipe.report.figures import (
    SensitivityBar,
    accuracy_latency_chart,
    plan_curve_chart,
    sensitivity_chart,
    training_chart,
)
from quantpipe.report.html import Chart, Example
from quantpipe.report.summary import Summary, batch_names

_DEGRADATION = {
    "map": "loss of mAP 50:95, points",
    "loss": "growth of the detection loss",
    "output": "error of the outputs",
    "gradient": "estimated error of the outputs",
}
_DIRECTION = {
    "only": "from this operation alone in INT8",
    "all_but": "that this operation alone in float would spare the INT8 network",
}


def speed_charts(summary: Summary) -> list[Chart]:
    """Returns accuracy over latency, a chart for each batch size."""
    return _drawn(
        _chart(
            f"Accuracy and speed at batch {batch[1:]}",
            "Up is more accurate, left is faster. Median of a call, timed in turn with the others.",
            accuracy_latency_chart(summary, batch),
        )
        for batch in batch_names(summary)
    )


def examples(path: Path) -> list[Example]:
    """Returns the pictures that ``evaluate`` drew."""
    return [
        Example(title=image["name"], pictures=tuple(image["pictures"].items()))
        for image in json.loads(path.read_bytes())["images"]
    ]


def sensitivity_charts(path: Path, plan: Path | None) -> list[Chart]:
    """Returns the ranking of ``sensitivity.json``, with what ``plan.json`` leaves in float."""
    table = load_table(path)
    unit = 100 if table.method == "map" else 1
    kept = frozenset(() if plan is None else load_plan(plan).float_operations)
    bars = [
        SensitivityBar(
            name=row.name,
            degradation=unit * (row.score if row.drop is None else row.drop),
            standard_error=None if row.standard_error is None else unit * row.standard_error,
            is_float=row.name in kept,
        )
        for row in table.rows
    ]
    label = f"{_DEGRADATION[table.method]}, {_DIRECTION[table.direction]}"
    svg = sensitivity_chart(bars, boundary=_boundary(bars), degradation_label=label)
    return _drawn([_chart("Sensitivity of the operations", _worth(table), svg)])


def _worth(table: SensitivityTable) -> str:
    order = "From the least sensitive to the most"
    text = f"{order}, on {table.num_images} images; bars are standard errors."
    if table.reliability is None:
        return text
    return f"{text} Rankings by two halves of the images correlate by {table.reliability:.2f}."


def _boundary(bars: Sequence[SensitivityBar]) -> int | None:
    """The last operation in INT8, where what is more sensitive stays in float, if any."""
    num_int8 = sum(not bar.is_float for bar in bars)
    split = all(bar.is_float for bar in bars[num_int8:]) and 0 < num_int8 < len(bars)
    return num_int8 - 1 if split else None


def plan_charts(path: Path) -> list[Chart]:
    """Returns what was measured to choose the plan; nothing where it was given."""
    plan = load_plan(path)
    if not plan.curve:
        return []
    svg = plan_curve_chart(plan.curve, chosen=len(plan.float_operations))
    return _drawn([_chart("Operations in float", f"{plan.reason}.{_latency(plan)}", svg)])


def _latency(plan: PrecisionPlan) -> str:
    """What was predicted and measured of the plan's latency, where it was."""
    found = plan.latency
    if found is None or found.measured is None:
        return ""
    return (
        f" {found.engine}, batch {found.batch_size}: predicted {found.predicted:.3f} ms, "
        f"measured {found.measured:.3f} ms; INT8 throughout {found.all_int8:.3f} ms, float "
        f"throughout {found.all_float:.3f} ms."
    )


def training_charts(step: str, path: Path) -> list[Chart]:
    """Returns the curves of ``history.json``, a chart for each part of the training."""
    return _drawn(
        _chart(f"Training: {step}, {part}", "By epoch.", training_chart(rows, f"{step}-{part}"))
        for part, rows in json.loads(path.read_bytes()).items()
        if len(rows) > 1
    )


def _drawn(charts: Iterable[Chart | None]) -> list[Chart]:
    return [chart for chart in charts if chart is not None]


def _chart(title: str, caption: str, svg: str | None) -> Chart | None:
    return None if svg is None else Chart(title=title, caption=caption, svg=svg)
