"""The report's pictures, made from the files that the steps left."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from quantpipe.report.figures import (
    SensitivityBar,
    accuracy_latency_chart,
    sensitivity_chart,
    training_chart,
)
from quantpipe.report.html import Chart, Example
from quantpipe.report.summary import Summary, batch_names

_HARM = {
    "map": "loss of mAP 50:95 with this operation alone in INT8, points",
    "output": "noise at the outputs with this operation alone in INT8, share of the signal",
    "gradient": "estimated noise at the outputs from this operation in INT8",
}


def charts(
    summary: Summary,
    *,
    table: Path | None,
    boundary: int | None,
    histories: Mapping[str, Path],
) -> list[Chart]:
    """Returns what can be drawn of a run: accuracy over latency, sensitivity, training.

    Args:
        summary: Of the run.
        table: ``sensitivity.json``, if the run ranked operations.
        boundary: The last operation of that ranking that was quantized.
        histories: ``history.json`` files by stage.
    """
    found = [
        _chart(
            f"Accuracy and speed at batch {batch[1:]}",
            "Up is more accurate, left is faster. Median of a call, timed in turn with the others.",
            accuracy_latency_chart(summary, batch),
        )
        for batch in batch_names(summary)
    ]
    if table is not None:
        found.append(_sensitivity(table, boundary))
    for stage, path in histories.items():
        found += _training(stage, path)
    return [chart for chart in found if chart is not None]


def examples(path: Path | None) -> list[Example]:
    """Returns the pictures that ``evaluate`` drew."""
    if path is None:
        return []
    return [
        Example(title=image["name"], pictures=tuple(image["pictures"].items()))
        for image in json.loads(path.read_bytes())["images"]
    ]


def _sensitivity(path: Path, boundary: int | None) -> Chart | None:
    table = json.loads(path.read_bytes())
    in_points = table["method"] == "map"
    bars = [
        SensitivityBar(
            name=row["name"],
            harm=100 * row["drop"] if in_points else row["score"],
            standard_error=row["standard_error"],
            is_float=boundary is not None and place > boundary,
        )
        for place, row in enumerate(table["rows"])
    ]
    svg = sensitivity_chart(bars, boundary=boundary, harm_label=_HARM[table["method"]])
    return _chart("Sensitivity of the operations", "From harmless to harmful.", svg)


def _training(stage: str, path: Path) -> list[Chart | None]:
    return [
        _chart(f"Training: {stage}, {part}", "By epoch.", training_chart(rows, f"{stage}-{part}"))
        for part, rows in json.loads(path.read_bytes()).items()
        if len(rows) > 1
    ]


def _chart(title: str, caption: str, svg: str | None) -> Chart | None:
    return None if svg is None else Chart(title=title, caption=caption, svg=svg)
