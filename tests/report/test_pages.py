from __future__ import annotations

from pathlib import Path

import pytest

from quantpipe.quantization.precision_plan import PlanPoint, PrecisionPlan, save_plan
from quantpipe.quantization.sensitivity_table import SensitivityRow, save_table, sorted_table
from quantpipe.report.html import Chart
from quantpipe.report.pages import charts
from quantpipe.report.summary import Summary

NAMES = ("a", "b", "c", "d")


@pytest.fixture
def table(tmp_path: Path) -> Path:
    rows = [SensitivityRow(name=name, score=float(i)) for i, name in enumerate(NAMES)]
    path = tmp_path / "sensitivity.json"
    save_table(path, sorted_table("output", rows, baseline=None, weights_digest=None))
    return path


def drawn(
    summary: Summary, table: Path, kept: str, curve: tuple[PlanPoint, ...] = ()
) -> dict[str, Chart]:
    plan = PrecisionPlan(
        operations={name: "float" if name in kept else "int8" for name in NAMES},
        reason="the images cannot tell",
        curve=curve,
    )
    path = table.with_name("plan.json")
    save_plan(path, plan)
    return {c.title: c for c in charts(summary, table=table, plan=path, histories={})}


@pytest.mark.parametrize(("kept", "boundary"), [("cd", "boundary 1"), ("d", "boundary 2")])
def test_a_plan_along_the_ranking_shows_its_boundary(
    summary: Summary, table: Path, kept: str, boundary: str
) -> None:
    assert boundary in drawn(summary, table, kept)["Sensitivity of the operations"].svg


@pytest.mark.parametrize("kept", ["", "b", "abcd"])
def test_any_other_plan_shows_none(summary: Summary, table: Path, kept: str) -> None:
    svg = drawn(summary, table, kept)["Sensitivity of the operations"].svg
    assert "boundary" not in svg
    assert ("stays in float" in svg) == bool(kept)


def test_what_was_measured_is_drawn_above_the_reason(summary: Summary, table: Path) -> None:
    curve = tuple(
        PlanPoint(num_float=n, map=0.5, drop=d, low=d, high=d, agreement=None)
        for n, d in ((0, 0.01), (2, 0.001))
    )
    chart = drawn(summary, table, "cd", curve)["Operations in float"]
    assert chart.caption == "the images cannot tell."
    assert "taken" in chart.svg
    assert "Operations in float" not in drawn(summary, table, "cd")
