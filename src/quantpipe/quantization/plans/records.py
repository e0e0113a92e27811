"""Plans that were measured, kept so that a search that was stopped goes on from there."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import numpy as np

from quantpipe.documents import record
from quantpipe.errors import ArtifactError
from quantpipe.files import canonical_json, sha256_bytes
from quantpipe.quantization.precision_plan import PlanPoint, PrecisionPlan
from quantpipe.quantization.records import SavedRecords
from quantpipe.quantization.scale_cache import ScaleCache

Measure = Callable[[PrecisionPlan], PlanPoint]


def plan_records(folder: Path, scales: ScaleCache) -> SavedRecords:
    """Returns the records of plans of the network that ``scales`` belong to."""
    identity = sha256_bytes(canonical_json(scales.to_document()).encode())
    return SavedRecords(folder=folder, identity=identity)


def remembering(measure: Measure, records: SavedRecords) -> Measure:
    """Returns ``measure`` with an answer kept for every plan."""

    def measured(plan: PrecisionPlan) -> PlanPoint:
        name = _name(plan)
        known = _read(records, name)
        if known is None:
            known = measure(plan)
            found = {key: value for key, value in asdict(known).items() if value is not None}
            records.write(name, {key: np.array(value) for key, value in found.items()})
        return known

    return measured


def _read(records: SavedRecords, name: str) -> PlanPoint | None:
    found = records.read(name)
    if found is None:
        return None
    try:
        values = {key: array.item() for key, array in found.items()}
        return record(PlanPoint, {"agreement": None} | values)
    except (ArtifactError, ValueError):  # an array of several values
        return None


def _name(plan: PrecisionPlan) -> str:
    """A plan is known by its float operations, whatever their order and the reason."""
    return sha256_bytes(canonical_json({"float": sorted(plan.float_operations)}).encode())
