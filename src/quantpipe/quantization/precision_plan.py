"""The precision plan: which operations are quantized and which stay in float, why, and its cost.

Version 2 holds the reason of every operation, what was predicted and measured, and every plan that
was measured on the way.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from quantpipe.documents import read_as, write_document
from quantpipe.errors import ArtifactError, nearest
from quantpipe.quantization.number_format import NUMBER_FORMATS, NumberFormat, is_quantized

FORMAT = "quantpipe-plan"
VERSION = 2

FLOAT = "float"


@dataclass(frozen=True, kw_only=True)
class OperationReason:
    """Why an operation got its precision.

    Attributes:
        rank: Its place in the ranking, 0 for the least sensitive.
        score: Of the ranking, in the units of its method.
        predicted_drop: Its share of the mAP that INT8 costs, as a fraction of one.
        int8_ms: What it takes in an engine that is INT8 throughout.
        float_ms: What it takes in an engine that is float throughout.
    """

    rank: int
    score: float
    predicted_drop: float | None = None
    int8_ms: float | None = None
    float_ms: float | None = None


@dataclass(frozen=True, kw_only=True)
class PlanPoint:
    """A plan that was measured against the float network on the same images.

    Attributes:
        num_float: Operations in float.
        map: mAP 50:95, 0..1.
        drop: That of the float network minus it.
        low: Lower end of the drop's 95 % interval, bootstrapped over the images in pairs.
        high: Its upper end.
        agreement: mAP against the float network's own confident detections; None where it has none.
    """

    num_float: int
    map: float
    drop: float
    low: float
    high: float
    agreement: float | None


@dataclass(frozen=True, kw_only=True)
class PlanLatency:
    """Milliseconds of one batch: of the plan, and of what it lies between, timed in turn with it.

    Attributes:
        engine: The library.
        batch_size: Images in the batch.
        predicted: From the times of the layers and what changes of precision cost.
        measured: The fastest of many runs; None where the plan was not built.
        all_int8: Likewise with every operation in INT8.
        all_float: Likewise with none.
    """

    engine: str
    batch_size: int
    predicted: float
    measured: float | None
    all_int8: float
    all_float: float


@dataclass(frozen=True, kw_only=True)
class PrecisionPlan:
    """The precision of every operation of a network.

    Attributes:
        operations: By name what each runs in: a number format by its name, or ``float``.
        reason: How the plan was made, in words.
        why: What spoke for it, by operation; empty where nothing was ranked.
        predicted_drop: Of mAP 50:95 against float, by the additive model; None without one.
        measured: The plan itself; None where it was not measured.
        latency: None where no engine was timed.
        curve: Every plan that was measured, from few to many operations in float.
    """

    operations: Mapping[str, str]
    reason: str
    why: Mapping[str, OperationReason] = field(default_factory=dict)
    predicted_drop: float | None = None
    measured: PlanPoint | None = None
    latency: PlanLatency | None = None
    curve: tuple[PlanPoint, ...] = ()

    def __post_init__(self) -> None:
        for name, precision in self.operations.items():
            if precision != FLOAT and not is_quantized(precision):
                known = " or ".join((*NUMBER_FORMATS, FLOAT))
                raise ArtifactError(f"precision of '{name}' is {precision!r}, not {known}")

    @property
    def quantized(self) -> tuple[str, ...]:
        """The operations that run in a number format."""
        return tuple(name for name, precision in self.operations.items() if precision != FLOAT)

    @property
    def float_operations(self) -> tuple[str, ...]:
        """The operations that stay in float."""
        return tuple(name for name, precision in self.operations.items() if precision == FLOAT)

    def require_operations(self, names: Sequence[str], *, path: Path | None = None) -> None:
        """Refuses a network with other operations.

        Raises:
            ArtifactError: Names an operation that only one of the two has.
        """
        require_same_operations("this plan", self.operations, names, path=path)

    def to_document(self) -> dict[str, Any]:
        """Returns what :func:`save_plan` writes."""
        return {
            "format": FORMAT,
            "version": VERSION,
            "reason": self.reason,
            "predicted_drop": self.predicted_drop,
            "measured": None if self.measured is None else asdict(self.measured),
            "latency": None if self.latency is None else asdict(self.latency),
            "operations": [
                {
                    "name": name,
                    "precision": precision,
                    "why": asdict(self.why[name]) if name in self.why else None,
                }
                for name, precision in self.operations.items()
            ],
            "curve": [asdict(point) for point in self.curve],
        }


def planned_precisions(
    names: Iterable[str], float_operations: Collection[str], number_format: NumberFormat
) -> dict[str, str]:
    """What each of some operations runs in, of which some stay in float."""
    return {name: FLOAT if name in float_operations else number_format.name for name in names}


def save_plan(path: Path, plan: PrecisionPlan) -> None:
    """Writes the plan as JSON, whole or not at all."""
    write_document(path, plan.to_document())


def load_plan(path: Path) -> PrecisionPlan:
    """Reads a plan.

    Raises:
        ArtifactError: The file is damaged or of another version.
    """
    hint = "make the plan again"
    stored = read_as(_Document, path, FORMAT, VERSION, hint=hint)
    operations = {item.name: item.precision for item in stored.operations}
    why = {item.name: item.why for item in stored.operations if item.why is not None}
    try:
        if len(operations) != len(stored.operations):
            raise ArtifactError("the plan names an operation twice")
        return PrecisionPlan(**{**vars(stored), "operations": operations, "why": why})
    except ArtifactError as error:
        raise ArtifactError(error.cause, path=path, hint=hint) from error


@dataclass(frozen=True, kw_only=True)
class _PlannedOperation:
    name: str
    precision: str
    why: OperationReason | None = None


@dataclass(frozen=True, kw_only=True)
class _Document:
    """A plan as it stands in its file."""

    reason: str
    predicted_drop: float | None = None
    measured: PlanPoint | None = None
    latency: PlanLatency | None = None
    operations: tuple[_PlannedOperation, ...]
    curve: tuple[PlanPoint, ...]


def require_same_operations(
    what: str, have: Mapping[str, object], names: Sequence[str], *, path: Path | None = None
) -> None:
    """Refuses ``have`` unless its keys are ``names``.

    Raises:
        ArtifactError: Names the first that the network does not have, and the nearest that it has;
            or the first that is missing, and counts both.
    """
    known = set(names)
    unknown = [name for name in have if name not in known]
    if unknown:
        raise ArtifactError(
            f"{what} names an operation '{unknown[0]}' that the network does not have",
            path=path,
            hint=nearest(unknown[0], known),
        )
    missing = [name for name in names if name not in have]
    if missing:
        raise ArtifactError(
            f"{what} covers {len(have)} operations and the network has {len(names)}; "
            f"'{missing[0]}' is missing",
            path=path,
            hint="use one made from this model",
        )
