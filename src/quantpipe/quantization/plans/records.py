"""Plans that were measured, kept so that a search that was stopped goes on from there."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

from quantpipe.documents import read_document, record
from quantpipe.errors import ArtifactError
from quantpipe.files import canonical_json, sha256_bytes, write_json
from quantpipe.quantization.precision_plan import PlanPoint, PrecisionPlan
from quantpipe.quantization.scale_cache import ScaleCache

_FORMAT = "quantpipe-plan-record"
_VERSION = 1

Measure = Callable[[PrecisionPlan], PlanPoint]


@dataclass(frozen=True, kw_only=True)
class PlanRecords:
    """One small file for each plan that was measured; damaged ones are measured again.

    Attributes:
        folder: Where they are kept.
        scales: Of the network; records of others are not read.
    """

    folder: Path
    scales: ScaleCache

    def remembering(self, measure: Measure) -> Measure:
        """Returns ``measure`` with an answer kept for every plan."""

        def measured(plan: PrecisionPlan) -> PlanPoint:
            known = self.read(plan)
            if known is None:
                known = measure(plan)
                self._write(plan, known)
            return known

        return measured

    def read(self, plan: PrecisionPlan) -> PlanPoint | None:
        """Returns what was measured of a plan before, if anything."""
        path = self._path(plan)
        if not path.exists():
            return None
        try:
            document = read_document(path, _FORMAT, _VERSION)
            point = record(PlanPoint, document.get("point"))
            whole = document.get("sha256") == self._digest(plan, asdict(point))
            return point if whole else None
        except ArtifactError:
            return None

    def _write(self, plan: PrecisionPlan, point: PlanPoint) -> None:
        fields = asdict(point)
        document = {"format": _FORMAT, "version": _VERSION, "point": fields}
        write_json(self._path(plan), {**document, "sha256": self._digest(plan, fields)})

    def _digest(self, plan: PrecisionPlan, fields: dict[str, object]) -> str:
        return sha256_bytes(json.dumps([self._name(plan), fields], sort_keys=True).encode())

    def _name(self, plan: PrecisionPlan) -> str:
        operations = sorted(plan.float_operations)
        named = {"scales": self.scales.to_document(), "float": operations}
        return sha256_bytes(canonical_json(named).encode())

    def _path(self, plan: PrecisionPlan) -> Path:
        return self.folder / f"{self._name(plan)}.json"
