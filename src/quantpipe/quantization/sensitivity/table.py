"""The sensitivity table: what INT8 in each operation does, harmless ones first."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

from quantpipe.errors import ArtifactError
from quantpipe.files import write_atomic
from quantpipe.quantization.documents import expect, read_document, write_document

FORMAT = "quantpipe-sensitivity"
VERSION = 2

SensitivityMethod = Literal["map", "loss", "output", "gradient"]
Direction = Literal["only", "all_but"]


class Accuracy(NamedTuple):
    """Average precision, 0..1: at IoU 0.50, and the mean over 0.50:0.95."""

    map50: float
    map: float


@dataclass(frozen=True, kw_only=True)
class SensitivityRow:
    """One operation.

    Attributes:
        name: The operation.
        score: ``map``: mAP 50:95 with this operation switched; the other methods: its
            degradation, smaller is harmless.
        standard_error: Over the images; of ``drop`` for ``map``, else of the score.
        map50: With this operation switched.
        map: Likewise.
        drop: Of mAP 50:95 that this operation in INT8 costs, in the direction that was measured.
    """

    name: str
    score: float
    standard_error: float | None = None
    map50: float | None = None
    map: float | None = None
    drop: float | None = None


@dataclass(frozen=True, kw_only=True)
class SensitivityTable:
    """All operations, from harmless to harmful.

    Attributes:
        method: How they were scored.
        rows: In order; ties stay in execution order.
        baseline: mAP 50:95 with no operation switched, for ``map``.
        weights_digest: Of the weights that were scored; None where a file did not say.
        direction: ``only``: each operation alone was in INT8; ``all_but``: each alone was in float,
            inside the INT8 network.
        num_images: On which they were scored, where known; likewise what follows.
        seconds: That it took; no part of what tables are compared by.
        passes: Of the network for each image.
        reliability: Rank correlation of the rankings by two halves of the images, see
            :func:`~quantpipe.quantization.sensitivity.degradation.reliability`.
    """

    method: SensitivityMethod
    rows: tuple[SensitivityRow, ...]
    baseline: float | None
    weights_digest: str | None
    direction: Direction = "only"
    num_images: int | None = None
    seconds: float | None = field(default=None, compare=False)
    passes: float | None = None
    reliability: float | None = None

    def require_weights(self, digest: str, *, path: Path | None = None) -> None:
        """Refuses weights other than those that were scored; a table that names none passes.

        Raises:
            ArtifactError: Names both digests.
        """
        if self.weights_digest not in (None, digest):
            raise ArtifactError(
                f"this sensitivity table belongs to weights {self.weights_digest}, not to {digest}",
                path=path,
                hint="rank the operations of these weights",
            )

    def renamed(self, ours: Callable[[str], str | None]) -> SensitivityTable:
        """The table with our names where there is one for those that it has; others stay."""
        rows = (replace(row, name=ours(row.name) or row.name) for row in self.rows)
        return replace(self, rows=tuple(rows))

    def require_operations(self, names: Sequence[str], *, path: Path | None = None) -> None:
        """Refuses a table that ranks other operations than a model has.

        Raises:
            ArtifactError: Names the first one too many or missing.
        """
        ranked = {row.name for row in self.rows}
        different = [row.name for row in self.rows if row.name not in names]
        different += [name for name in names if name not in ranked]
        if different:
            raise ArtifactError(
                f"it ranks {len(ranked)} operations, the model has {len(names)}; "
                f"the first that differs is '{different[0]}'",
                path=path,
                hint="give the ranking of this model",
            )


def sorted_table(
    method: SensitivityMethod,
    rows: Iterable[SensitivityRow],
    *,
    baseline: float | None,
    weights_digest: str | None,
    direction: Direction = "only",
    num_images: int | None = None,
    seconds: float | None = None,
    passes: float | None = None,
    reliability: float | None = None,
) -> SensitivityTable:
    """Sorts rows given in execution order from harmless to harmful, stably.

    By degradation ascending; ``map`` by mAP 50:95: descending where the operation was alone in
    INT8, ascending where it was alone in float.
    """
    sign = -1.0 if method == "map" and direction == "only" else 1.0
    return SensitivityTable(
        method=method,
        rows=tuple(sorted(rows, key=lambda row: sign * row.score)),
        baseline=baseline,
        weights_digest=weights_digest,
        direction=direction,
        num_images=num_images,
        seconds=seconds,
        passes=passes,
        reliability=reliability,
    )


def save_table(path: Path, table: SensitivityTable) -> None:
    """Writes the table as JSON, whole or not at all, with all digits."""
    document = {
        "format": FORMAT,
        "version": VERSION,
        "method": table.method,
        "direction": table.direction,
        "num_images": table.num_images,
        "seconds": table.seconds,
        "passes": table.passes,
        "reliability": table.reliability,
        "baseline": table.baseline,
        "weights_digest": table.weights_digest,
        "rows": [asdict(row) for row in table.rows],
    }
    write_document(path, document)


def load_table(path: Path) -> SensitivityTable:
    """Reads a table written by :func:`save_table`.

    Raises:
        ArtifactError: The file is damaged, of another version, or out of order.
    """
    try:
        document = read_document(path, FORMAT, VERSION)
        method = _one_of(document, "method", SensitivityMethod)
        direction = _one_of(document, "direction", Direction)
        rows = [_row(item) for item in expect(document, "rows", list)]
        table = sorted_table(
            method,
            rows,
            baseline=_optional(document, "baseline", float),
            weights_digest=_optional(document, "weights_digest", str),
            direction=direction,
            num_images=_optional(document, "num_images", int),
            seconds=_optional(document, "seconds", float),
            passes=_optional(document, "passes", float),
            reliability=_optional(document, "reliability", float),
        )
        _require_sound(table, rows)
    except ArtifactError as error:
        raise ArtifactError(error.cause, path=path, hint="rank the operations again") from error
    return table


def write_released_text(path: Path, table: SensitivityTable) -> None:
    """Writes ``name mAP50 mAP50:95`` lines, as YOLOv6 publishes its tables.

    Raises:
        ArtifactError: The table holds no mAP of operations that were alone in INT8.
    """
    if table.direction != "only":
        raise ArtifactError(
            "the published text is of operations alone in INT8, not in float", path=path
        )
    lines = []
    for row in table.rows:
        if row.map50 is None or row.map is None:
            raise ArtifactError(f"method '{table.method}' measures no mAP to write", path=path)
        lines.append(f"{row.name} {row.map50!r} {row.map!r}\n")
    write_atomic(path, "".join(lines).encode())


def read_released_text(path: Path) -> SensitivityTable:
    """Reads ``name mAP50 mAP50:95`` lines in any order; such a file names no weights.

    Raises:
        ArtifactError: A line is something else, or a name comes twice.
    """
    try:
        lines = path.read_text("utf-8").splitlines()
    except OSError as error:
        raise ArtifactError(f"cannot be read: {error.strerror}", path=path) from error
    except UnicodeDecodeError as error:
        raise ArtifactError("is not text", path=path) from error
    rows = [
        _released_row(path, number, line)
        for number, line in enumerate(lines, start=1)
        if line.strip()
    ]
    table = sorted_table("map", rows, baseline=None, weights_digest=None)
    try:
        _require_sound(table, list(table.rows))
    except ArtifactError as error:
        raise ArtifactError(error.cause, path=path) from error
    return table


def _released_row(path: Path, number: int, line: str) -> SensitivityRow:
    fields = line.split()
    try:
        name, map50, map50_95 = fields[0], float(fields[1]), float(fields[2])
    except (IndexError, ValueError):
        fields = []
    if len(fields) != 3:
        raise ArtifactError(
            f"line {number} is '{line[:60]}'", path=path, hint="expected: name mAP50 mAP50:95"
        )
    return SensitivityRow(name=name, score=map50_95, map50=map50, map=map50_95)


def _row(item: Any) -> SensitivityRow:
    return SensitivityRow(
        name=expect(item, "name", str),
        score=expect(item, "score", float),
        standard_error=_optional(item, "standard_error", float),
        map50=_optional(item, "map50", float),
        map=_optional(item, "map", float),
        drop=_optional(item, "drop", float),
    )


def _one_of(document: Any, key: str, choices: Any) -> Any:
    value = expect(document, key, str)
    if value not in get_args(choices):
        raise ArtifactError(f"unknown sensitivity {key} '{value}'")
    return value


def _optional(item: Any, key: str, kind: type[Any]) -> Any:
    missing = isinstance(item, dict) and item.get(key) is None
    return None if missing else expect(item, key, kind)


def _require_sound(table: SensitivityTable, rows: list[SensitivityRow]) -> None:
    if not rows:
        raise ArtifactError("the sensitivity table has no rows")
    if list(table.rows) != rows:
        raise ArtifactError("the sensitivity table is not in order")
    if len({row.name for row in rows}) != len(rows):
        raise ArtifactError("the sensitivity table names an operation twice")
    if not all(math.isfinite(row.score) for row in rows):
        raise ArtifactError("the sensitivity table holds a score that is no number")
