"""The precision plan: which operations run in INT8 and which stay in float, why, and what it costs.

Version 2 holds the reason of every operation, what was predicted and measured, and every plan that
was measured on the way.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args

from quantpipe.errors import ArtifactError, ConfigurationError, nearest
from quantpipe.quantization.documents import expect, read_document, write_document
from quantpipe.quantization.sensitivity.table import SensitivityTable

FORMAT = "quantpipe-plan"
VERSION = 2

Precision = Literal["int8", "float"]
Record = TypeVar("Record")


@dataclass(frozen=True, kw_only=True)
class OperationReason:
    """Why an operation got its precision.

    Attributes:
        rank: Its place in the ranking, 0 for the most harmless.
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
        operations: Precision by operation name.
        reason: How the plan was made, in words.
        why: What spoke for it, by operation; empty where nothing was ranked.
        predicted_drop: Of mAP 50:95 against float, by the additive model; None without one.
        measured: The plan itself; None where it was not measured.
        latency: None where no engine was timed.
        curve: Every plan that was measured, from few to many operations in float.
    """

    operations: Mapping[str, Precision]
    reason: str
    why: Mapping[str, OperationReason] = field(default_factory=dict)
    predicted_drop: float | None = None
    measured: PlanPoint | None = None
    latency: PlanLatency | None = None
    curve: tuple[PlanPoint, ...] = ()

    def __post_init__(self) -> None:
        for name, precision in self.operations.items():
            if precision not in get_args(Precision):
                raise ArtifactError(f"precision of '{name}' is {precision!r}, not int8 or float")

    @property
    def quantized(self) -> tuple[str, ...]:
        """The operations that run in INT8."""
        return tuple(name for name, precision in self.operations.items() if precision == "int8")

    @property
    def float_operations(self) -> tuple[str, ...]:
        """The operations that stay in float."""
        return tuple(name for name, precision in self.operations.items() if precision == "float")

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


def all_int8(names: Sequence[str], *, keep_float: Sequence[str] = ()) -> PrecisionPlan:
    """Quantizes every operation but those at or under the module paths in ``keep_float``.

    Raises:
        ConfigurationError: No operation lies under a path.
    """
    kept: set[str] = set()
    for path in keep_float:
        under = {name for name in names if name == path or name.startswith(f"{path}.")}
        if not under:
            raise ConfigurationError(
                f"no operation is named '{path}' or lies under it",
                hint=nearest(path, _module_paths(names)),
            )
        kept |= under
    reason = f"float: {', '.join(keep_float)}" if keep_float else "every operation in INT8"
    return PrecisionPlan(
        operations={name: "float" if name in kept else "int8" for name in names}, reason=reason
    )


def plan_from_boundary(table: SensitivityTable, boundary: int) -> PrecisionPlan:
    """Quantizes the first ``boundary + 1`` operations of the table, harmless ones first.

    Raises:
        ConfigurationError: The boundary is not in [0, number of operations - 1].
    """
    last = len(table.rows) - 1
    if not 0 <= boundary <= last:
        raise ConfigurationError(
            f"quant boundary {boundary} is out of range",
            hint=f"the table has {last + 1} operations: give 0 to {last}",
        )
    kept = [row.name for row in table.rows[boundary + 1 :]]
    reason = f"the {boundary + 1} least sensitive of {last + 1} operations ({table.method})"
    return ranked_plan(table, kept, reason=reason)


def ranked_plan(
    table: SensitivityTable, float_operations: Collection[str], *, reason: str
) -> PrecisionPlan:
    """A plan whose operations stand in the order of the table, each with its rank and score."""
    return PrecisionPlan(
        operations={
            row.name: "float" if row.name in float_operations else "int8" for row in table.rows
        },
        reason=reason,
        why={
            row.name: OperationReason(rank=rank, score=row.score)
            for rank, row in enumerate(table.rows)
        },
    )


def explained(
    plan: PrecisionPlan,
    *,
    drops: Mapping[str, float],
    int8_ms: Mapping[str, float] | None = None,
    float_ms: Mapping[str, float] | None = None,
) -> PrecisionPlan:
    """Adds to a ranked plan what its operations were predicted to lose and to take."""
    why = {
        name: replace(
            reason,
            predicted_drop=drops[name],
            int8_ms=None if int8_ms is None else int8_ms[name],
            float_ms=None if float_ms is None else float_ms[name],
        )
        for name, reason in plan.why.items()
    }
    return replace(plan, why=why, predicted_drop=sum(drops[name] for name in plan.quantized))


def save_plan(path: Path, plan: PrecisionPlan) -> None:
    """Writes the plan as JSON, whole or not at all."""
    write_document(path, plan.to_document())


def load_plan(path: Path) -> PrecisionPlan:
    """Reads a plan.

    Raises:
        ArtifactError: The file is damaged or of another version.
    """
    document = read_document(path, FORMAT, VERSION)
    try:
        operations = expect(document, "operations", list)
        plan = PrecisionPlan(
            operations={
                expect(item, "name", str): expect(item, "precision", str) for item in operations
            },
            reason=expect(document, "reason", str),
            why={
                item["name"]: _read(OperationReason, item["why"])
                for item in operations
                if item.get("why") is not None
            },
            predicted_drop=_optional(document, "predicted_drop"),
            measured=_optional(document, "measured", PlanPoint),
            latency=_optional(document, "latency", PlanLatency),
            curve=tuple(_read(PlanPoint, item) for item in expect(document, "curve", list)),
        )
        if len(plan.operations) != len(operations):
            raise ArtifactError("the plan names an operation twice")
    except ArtifactError as error:
        raise ArtifactError(error.cause, path=path, hint="make the plan again") from error
    return plan


_KINDS: Mapping[str, type] = {"int": int, "float": float, "str": str}


def _read(kind: type[Record], item: Any) -> Record:
    """Builds a record of numbers and texts from the JSON object of its fields."""
    values = {}
    for name, annotation in kind.__annotations__.items():
        base, _, optional = annotation.partition(" | ")
        missing = bool(optional) and isinstance(item, dict) and item.get(name) is None
        values[name] = None if missing else expect(item, name, _KINDS[base])
    return kind(**values)


def _optional(document: Mapping[str, Any], key: str, kind: type[Any] | None = None) -> Any:
    value = document.get(key)
    if value is None:
        return None
    return expect(document, key, float) if kind is None else _read(kind, value)


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


def _module_paths(names: Sequence[str]) -> set[str]:
    parts = [name.split(".") for name in names]
    return {".".join(part[:depth]) for part in parts for depth in range(1, len(part) + 1)}
