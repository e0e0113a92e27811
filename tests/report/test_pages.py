from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from quantpipe.quantization.precision_plan import PlanLatency, PlanPoint, PrecisionPlan, save_plan
from quantpipe.quantization.sensitivity.table import (
    Direction,
    SensitivityMethod,
    SensitivityRow,
    save_table,
    sorted_table,
)
from quantpipe.report.html import Chart
from quantpipe.report.pages import (
    plan_charts,
    sensitivity_charts,
    speed_charts,
    training_charts,
)
from quantpipe.report.summary import Summary

NAMES = ("a", "b", "c", "d")


@pytest.fixture
def table(tmp_path: Path) -> Path:
    rows = [SensitivityRow(name=name, score=float(i)) for i, name in enumerate(NAMES)]
    path = tmp_path / "sensitivity.json"
    save_table(path, sorted_table("output", rows, baseline=None, weights_digest=None))
    return path


def drawn(
    table: Path,
    kept: str,
    curve: tuple[PlanPoint, ...] = (),
    latency: PlanLatency | None = None,
) -> dict[str, Chart]:
    plan = PrecisionPlan(
        operations={name: "float" if name in kept else "int8" for name in NAMES},
        reason="the images cannot tell",
        curve=curve,
        latency=latency,
    )
    path = table.with_name("plan.json")
    save_plan(path, plan)
    return {c.title: c for c in [*sensitivity_charts(table, path), *plan_charts(path)]}


@pytest.mark.parametrize(("kept", "boundary"), [("cd", "boundary 1"), ("d", "boundary 2")])
def test_a_plan_along_the_ranking_shows_its_boundary(table: Path, kept: str, boundary: str) -> None:
    assert boundary in drawn(table, kept)["Sensitivity of the operations"].svg


@pytest.mark.parametrize("kept", ["", "b", "abcd"])
def test_any_other_plan_shows_none(table: Path, kept: str) -> None:
    svg = drawn(table, kept)["Sensitivity of the operations"].svg
    assert "boundary" not in svg
    assert ("stays in float" in svg) == bool(kept)


def test_what_was_measured_is_drawn_above_the_reason(table: Path) -> None:
    curve = tuple(
        PlanPoint(num_float=n, map=0.5, drop=d, low=d, high=d, agreement=None)
        for n, d in ((0, 0.01), (2, 0.001))
    )
    chart = drawn(table, "cd", curve)["Operations in float"]
    assert chart.caption == "the images cannot tell."
    assert "taken" in chart.svg
    assert "Operations in float" not in drawn(table, "cd")


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
    (chart,) = sensitivity_charts(tmp_path / "sensitivity.json", None)
    assert chart.title == "Sensitivity of the operations"
    assert label in " ".join(re.findall(r">([^<>]+)</text>", chart.svg))
    assert "on 24 images" in chart.caption
    assert ("0.88" in chart.caption) == (reliability is not None)


def test_predicted_and_measured_latency_stand_side_by_side(table: Path) -> None:
    point = PlanPoint(num_float=0, map=0.5, drop=0.01, low=0.0, high=0.02, agreement=None)
    latency = PlanLatency(
        engine="openvino", batch_size=1, predicted=2.0, measured=2.5, all_int8=1.75, all_float=4.0
    )
    chart = drawn(table, "", (point,), latency)["Operations in float"]
    assert "predicted 2.000 ms, measured 2.500 ms" in chart.caption
    assert "INT8 throughout 1.750 ms, float throughout 4.000 ms" in chart.caption


def test_accuracy_is_drawn_over_the_latency_of_each_batch(summary: Summary) -> None:
    titles = [chart.title for chart in speed_charts(summary)]
    assert titles == ["Accuracy and speed at batch 1", "Accuracy and speed at batch 32"]


def test_a_part_of_a_training_is_drawn_where_it_has_a_curve(tmp_path: Path) -> None:
    rows = [{"epoch": epoch, "loss": 1.0 / (1 + epoch)} for epoch in range(3)]
    path = tmp_path / "history.json"
    path.write_text(json.dumps({"search": rows, "train": rows[:1]}))
    assert [chart.title for chart in training_charts("train_repopt", path)] == [
        "Training: train_repopt, search"
    ]
