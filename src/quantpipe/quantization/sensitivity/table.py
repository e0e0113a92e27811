"""The sensitivity table: what INT8 in each operation does, the least sensitive first."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Literal, NamedTuple

from quantpipe.documents import read_as, write_document
from quantpipe.errors import ArtifactError

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
            degradation, smaller is less sensitive.
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
    """All operations, from the least sensitive to the most.

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
    direction: Direction
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
    """Sorts rows given in execution order from the least sensitive to the most, stably.

    By degradation ascending; ``map`` by mAP 50:95: descending where the operation was alone in
    INT8, ascending where it was alone in float.
    """
    return SensitivityTable(
        method=method,
        rows=_in_order(rows, method, direction),
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
    hint = "rank the operations again"
    try:
        table = read_as(SensitivityTable, path, FORMAT, VERSION, hint=hint)
        require_sound(table)
    except ArtifactError as error:
        raise ArtifactError(error.cause, path=path, hint=hint) from error
    return table


def require_sound(table: SensitivityTable) -> None:
    """Refuses a table that is empty or out of order, and one with doubled names or bad scores.

    Raises:
        ArtifactError: Says which.
    """
    if not table.rows:
        raise ArtifactError("the sensitivity table has no rows")
    if _in_order(table.rows, table.method, table.direction) != table.rows:
        raise ArtifactError("the sensitivity table is not in order")
    if len({row.name for row in table.rows}) != len(table.rows):
        raise ArtifactError("the sensitivity table names an operation twice")
    if not all(math.isfinite(row.score) for row in table.rows):
        raise ArtifactError("the sensitivity table holds a score that is no number")


def _in_order(
    rows: Iterable[SensitivityRow], method: SensitivityMethod, direction: Direction
) -> tuple[SensitivityRow, ...]:
    sign = -1.0 if method == "map" and direction == "only" else 1.0
    return tuple(sorted(rows, key=lambda row: sign * row.score))
