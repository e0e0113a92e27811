from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from quantpipe.quantization.plans.records import PlanRecords
from quantpipe.quantization.precision_plan import PlanPoint, PrecisionPlan
from quantpipe.quantization.scale_cache import ScaleCache

PLAN = PrecisionPlan(operations={"stem": "int8", "down": "float"}, reason="one")
POINT = PlanPoint(num_float=1, map=0.5, drop=0.01, low=-0.002, high=0.02, agreement=None)


@pytest.fixture
def records(scales: ScaleCache, tmp_path: Path) -> PlanRecords:
    kept = PlanRecords(folder=tmp_path, scales=scales)
    assert kept.remembering(lambda plan: POINT)(PLAN) == POINT
    return kept


def test_a_plan_is_known_by_its_float_operations(records: PlanRecords) -> None:
    assert records.read(replace(PLAN, reason="another")) == POINT
    assert records.read(PrecisionPlan(operations={"stem": "float"}, reason="one")) is None


def test_other_ranges_know_nothing(records: PlanRecords) -> None:
    other = replace(records.scales, data_digest="e" * 64)
    assert replace(records, scales=other).read(PLAN) is None


def test_a_record_that_was_changed_is_no_record(records: PlanRecords, tmp_path: Path) -> None:
    (path,) = tmp_path.glob("*.json")
    document = json.loads(path.read_text())
    document["point"]["drop"] = 0.0
    path.write_text(json.dumps(document))
    assert records.read(PLAN) is None
    path.write_text("{")
    assert records.read(PLAN) is None
