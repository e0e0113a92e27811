from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from quantpipe.quantization.plans.records import Measure, plan_records, remembering
from quantpipe.quantization.precision_plan import PlanPoint, PrecisionPlan
from quantpipe.quantization.records import SavedRecords
from quantpipe.quantization.scale_cache import ScaleCache

PLAN = PrecisionPlan(operations={"stem": "int8", "down": "float"}, reason="one")
POINT = PlanPoint(num_float=1, map=0.5, drop=0.01, low=-0.002, high=0.02, agreement=None)
OTHER = replace(POINT, map=0.25, agreement=0.75)


@pytest.fixture
def records(scales: ScaleCache, tmp_path: Path) -> SavedRecords:
    kept = plan_records(tmp_path, scales)
    assert remembering(lambda plan: POINT, kept)(PLAN) == POINT
    return kept


def again(records: SavedRecords) -> Measure:
    """Tells :data:`OTHER` of what was not measured before."""
    return remembering(lambda plan: OTHER, records)


def test_a_plan_is_known_by_its_float_operations(records: SavedRecords) -> None:
    assert again(records)(replace(PLAN, reason="another")) == POINT
    another = PrecisionPlan(operations={"stem": "float"}, reason="one")
    assert again(records)(another) == OTHER
    assert remembering(lambda plan: POINT, records)(another) == OTHER


def test_other_ranges_know_nothing(records: SavedRecords, scales: ScaleCache) -> None:
    other = plan_records(records.folder, replace(scales, data_digest="e" * 64))
    assert again(other)(PLAN) == OTHER


def test_a_record_that_was_changed_is_no_record(records: SavedRecords) -> None:
    (path,) = records.folder.glob("*.npz")
    whole = path.read_bytes()
    at = whole.index(np.float64(0.01).tobytes())
    path.write_bytes(whole[:at] + b"\x01" + whole[at + 1 :])
    assert again(records)(PLAN) == OTHER


def test_a_record_of_something_else_is_no_record(records: SavedRecords) -> None:
    (path,) = records.folder.glob("*.npz")
    records.write(path.stem, {"map": np.zeros(3)})
    assert again(records)(PLAN) == OTHER
