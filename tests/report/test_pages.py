from __future__ import annotations

import re
from pathlib import Path

import pytest

from quantpipe.quantization.sensitivity_table import (
    Direction,
    SensitivityMethod,
    SensitivityRow,
    save_table,
    sorted_table,
)
from quantpipe.report.pages import charts
from quantpipe.report.summary import Summary


@pytest.mark.parametrize(
    ("method", "direction", "label"),
    [
        ("map", "only", "loss of mAP 50:95, points, from this operation alone in INT8"),
        ("loss", "only", "growth of the detection loss, from this operation alone in INT8"),
        ("output", "all_but", "error of the outputs, that this operation alone in float would"),
        ("gradient", "only", "estimated error of the outputs, from this operation alone in INT8"),
    ],
)
@pytest.mark.parametrize("reliability", [None, 0.876])
def test_the_chart_says_what_was_measured_and_how_sure_it_is(
    tmp_path: Path,
    summary: Summary,
    method: SensitivityMethod,
    direction: Direction,
    label: str,
    reliability: float | None,
) -> None:
    rows = [
        SensitivityRow(name=f"layer{i}", score=0.1 * i, map50=0.5, map=0.1 * i, drop=0.1 * (3 - i))
        for i in range(1, 4)
    ]
    table = sorted_table(
        method,
        rows,
        baseline=0.3,
        weights_digest="w",
        direction=direction,
        num_images=24,
        reliability=reliability,
    )
    save_table(tmp_path / "sensitivity.json", table)
    found = charts(summary, table=tmp_path / "sensitivity.json", boundary=1, histories={})
    chart = next(chart for chart in found if chart.title.startswith("Sensitivity"))
    assert label in " ".join(re.findall(r">([^<>]+)</text>", chart.svg))
    assert "on 24 images" in chart.caption
    assert ("0.88" in chart.caption) == (reliability is not None)
