from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tests.precision_plans import all_int8

from quantpipe.errors import ArtifactError, ConfigurationError
from quantpipe.quantization.plans.ranked import explained, plan_from_boundary
from quantpipe.quantization.precision_plan import (
    OperationReason,
    PlanLatency,
    PlanPoint,
    PrecisionPlan,
    load_plan,
    save_plan,
)
from quantpipe.quantization.sensitivity.table import SensitivityRow, SensitivityTable, sorted_table

NAMES = ("backbone.stem", "neck.up", "detect.stems.0", "detect.stems.1")


@pytest.fixture
def table() -> SensitivityTable:
    scores = dict(zip(NAMES, (0.40, 0.43, 0.39, 0.43), strict=True))
    rows = [SensitivityRow(name=name, score=score) for name, score in scores.items()]
    return sorted_table("map", rows, baseline=0.435, weights_digest="w")


@pytest.mark.parametrize("boundary", range(4))
def test_boundary_quantizes_the_first_b_plus_one(table: SensitivityTable, boundary: int) -> None:
    order = ["neck.up", "detect.stems.1", "backbone.stem", "detect.stems.0"]
    plan = plan_from_boundary(table, boundary)
    assert list(plan.quantized) == order[: boundary + 1]
    assert list(plan.float_operations) == order[boundary + 1 :]


@pytest.mark.parametrize("boundary", [-1, 4, 55])
def test_boundary_out_of_range_names_the_range(table: SensitivityTable, boundary: int) -> None:
    with pytest.raises(
        ConfigurationError, match=f"boundary {boundary} .*4 operations: give 0 to 3"
    ):
        plan_from_boundary(table, boundary)


def test_all_int8_with_a_float_head() -> None:
    assert all_int8(NAMES).quantized == NAMES
    plan = all_int8(NAMES, keep_float=["detect"])
    assert plan.quantized == NAMES[:2]
    assert plan.float_operations == NAMES[2:]


def test_round_trip(tmp_path: Path, table: SensitivityTable) -> None:
    plan = plan_from_boundary(table, 1)
    save_plan(tmp_path / "plan.json", plan)
    assert load_plan(tmp_path / "plan.json") == plan


def test_round_trip_of_all_that_was_predicted_and_measured(
    tmp_path: Path, table: SensitivityTable
) -> None:
    times = dict.fromkeys(NAMES, 0.25)
    plan = explained(
        plan_from_boundary(table, 1),
        drops=dict.fromkeys(NAMES, 0.001),
        int8_ms=times,
        float_ms=times,
    )
    assert plan.predicted_drop == 0.002
    assert plan.why["backbone.stem"] == OperationReason(
        rank=2, score=0.40, predicted_drop=0.001, int8_ms=0.25, float_ms=0.25
    )
    point = PlanPoint(num_float=2, map=0.4, drop=0.1, low=0.05, high=0.2, agreement=None)
    latency = PlanLatency(
        engine="openvino", batch_size=1, predicted=2.0, measured=2.5, all_int8=2.0, all_float=4.0
    )
    plan = replace(plan, measured=point, latency=latency, curve=(point,))
    save_plan(tmp_path / "plan.json", plan)
    assert load_plan(tmp_path / "plan.json") == plan


def test_a_plan_of_an_older_release_says_what_to_do(tmp_path: Path) -> None:
    old = '{"format": "quantpipe-plan", "version": 1, "operations": {"a": "int8"}, "reason": ""}'
    (tmp_path / "plan.json").write_text(old)
    with pytest.raises(ArtifactError, match="version 1 is not known; this release reads version 2"):
        load_plan(tmp_path / "plan.json")


GOOD = {"name": "a", "precision": "int8", "why": None}


@pytest.mark.parametrize(
    "changes",
    [
        {"version": 3},
        {"operations": {"a": "int8"}},
        {"operations": ["a"]},
        {"operations": [{**GOOD, "precision": "int4"}]},
        {"operations": [GOOD, GOOD]},
        {"operations": [{**GOOD, "why": {"rank": 0}}]},
        {"curve": [{"num_float": 0}]},
        {"measured": 1},
        {"reason": None},
    ],
)
def test_damage_is_refused(tmp_path: Path, changes: dict[str, Any]) -> None:
    document = PrecisionPlan(operations={"a": "int8"}, reason="").to_document()
    path = tmp_path / "plan.json"
    path.write_text(json.dumps(document))
    load_plan(path)
    path.write_text(json.dumps({**document, **changes}))
    with pytest.raises(ArtifactError, match=r"plan\.json"):
        load_plan(path)


@pytest.mark.parametrize("text", ["", "[]"])
def test_what_is_no_plan_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "plan.json").write_text(text)
    with pytest.raises(ArtifactError, match=r"plan\.json"):
        load_plan(tmp_path / "plan.json")


def test_another_models_plan_names_a_difference() -> None:
    plan = PrecisionPlan(operations={"a": "int8", "b": "float"}, reason="")
    plan.require_operations(["b", "a"])
    with pytest.raises(ArtifactError, match="2 operations and the network has 3; 'c' is missing"):
        plan.require_operations(["a", "b", "c"])


def test_an_operation_that_the_network_does_not_have_comes_with_the_nearest(tmp_path: Path) -> None:
    operations = dict.fromkeys([*NAMES[:-1], "detect.stem.1"], "int8")
    plan = PrecisionPlan(operations=operations, reason="")
    with pytest.raises(ArtifactError) as caught:
        plan.require_operations(NAMES, path=tmp_path / "plan.json")
    assert str(caught.value) == (
        f"{tmp_path}/plan.json: this plan names an operation 'detect.stem.1' that the network does "
        "not have; did you mean 'detect.stems.1'?"
    )
    assert caught.value.exit_code == 4


def test_a_plan_that_names_an_operation_twice_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "plan.json"
    save_plan(path, PrecisionPlan(operations={"a": "int8", "b": "float"}, reason=""))
    document = json.loads(path.read_text().replace('"b"', '"a"'))
    del document["document_sha256"]
    path.write_text(json.dumps(document))
    with pytest.raises(ArtifactError, match="names an operation twice; make the plan again"):
        load_plan(path)
