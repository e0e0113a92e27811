"""The precision plan: which operations run in INT8 and which stay in float."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from quantpipe.errors import ArtifactError, ConfigurationError, nearest
from quantpipe.files import write_json
from quantpipe.quantization.json_reader import expect, read_document
from quantpipe.quantization.sensitivity_table import SensitivityTable

FORMAT = "quantpipe-plan"
VERSION = 1

Precision = Literal["int8", "float"]


@dataclass(frozen=True, kw_only=True)
class PrecisionPlan:
    """The precision of every operation of a network.

    Attributes:
        operations: Precision by operation name.
        reason: How the plan was made, in words.
    """

    operations: Mapping[str, Precision]
    reason: str

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
            "operations": dict(self.operations),
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
    return PrecisionPlan(
        operations={
            row.name: "int8" if index <= boundary else "float"
            for index, row in enumerate(table.rows)
        },
        reason=f"the {boundary + 1} least sensitive of {last + 1} operations ({table.method})",
    )


def save_plan(path: Path, plan: PrecisionPlan) -> None:
    """Writes the plan as JSON, whole or not at all."""
    write_json(path, plan.to_document())


def load_plan(path: Path) -> PrecisionPlan:
    """Reads a plan.

    Raises:
        ArtifactError: The file is damaged or of another version.
    """
    document = read_document(path, FORMAT, VERSION)
    try:
        return PrecisionPlan(
            operations=expect(document, "operations", dict),
            reason=expect(document, "reason", str),
        )
    except ArtifactError as error:
        raise ArtifactError(error.cause, path=path, hint="make the plan again") from error


def require_same_operations(
    what: str, have: Mapping[str, object], names: Sequence[str], *, path: Path | None = None
) -> None:
    """Refuses ``have`` unless its keys are ``names``.

    Raises:
        ArtifactError: Counts both and names the first difference.
    """
    differing = sorted(set(have) ^ set(names))
    if differing:
        raise ArtifactError(
            f"{what} covers {len(have)} operations and the network has {len(names)}; "
            f"'{differing[0]}' is in only one of them",
            path=path,
            hint="use one made from this model",
        )


def _module_paths(names: Sequence[str]) -> set[str]:
    parts = [name.split(".") for name in names]
    return {".".join(part[:depth]) for part in parts for depth in range(1, len(part) + 1)}
