"""Sensitivity tables as YOLOv6 releases them: a text of names and average precisions."""

from __future__ import annotations

from pathlib import Path

from quantpipe.errors import ArtifactError
from quantpipe.files import write_atomic
from quantpipe.given_files import read_text
from quantpipe.quantization.sensitivity.table import (
    SensitivityRow,
    SensitivityTable,
    require_sound,
    sorted_table,
)


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
    lines = read_text(path, ArtifactError).splitlines()
    rows = [
        _released_row(path, number, line)
        for number, line in enumerate(lines, start=1)
        if line.strip()
    ]
    table = sorted_table("map", rows, baseline=None, weights_digest=None)
    try:
        require_sound(table)
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
