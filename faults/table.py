"""The counts of all campaigns as one table, for a terminal and for a document."""

from __future__ import annotations

from collections.abc import Sequence

from faults.tally import Tally
from rich import box
from rich.console import Console
from rich.table import Table

_WIDTH = 120
_COLUMNS = (
    ("faults", "tried"),
    ("survived", "survived"),
    ("wrong results", "wrong_results"),
    ("bytes lost", "bytes_lost"),
    ("stages redone", "stages_redone"),
    ("steps lost", "steps_lost"),
    ("duplicates", "duplicates"),
    ("files left", "temporary_files"),
    ("code run", "code_run"),
)


def printed(console: Console, tallies: Sequence[Tally], markdown: bool) -> None:
    """Prints a row for each campaign, and their sum."""
    if not tallies:
        return
    table = Table(
        "campaign",
        "rows",
        *(title for title, _ in _COLUMNS),
        "seconds",
        "seed",
        box=box.MARKDOWN if markdown else box.SIMPLE_HEAD,
    )
    for column in table.columns[2:]:
        column.justify = "right"
    for tally in tallies:
        counts = [f"{getattr(tally, name):,}" for _, name in _COLUMNS]
        table.add_row(
            tally.campaign, _rows(tally), *counts, f"{tally.seconds:.0f}", str(tally.seed)
        )
    sums = [f"{sum(getattr(tally, name) for tally in tallies):,}" for _, name in _COLUMNS]
    table.add_row("all", "", *sums, f"{sum(tally.seconds for tally in tallies):.0f}", "")
    if markdown:
        _wide(console).print(table)
    else:
        Console(file=console.file, width=max(console.width, _WIDTH)).print(table)


def _wide(console: Console) -> Console:
    """A document has room for every column."""
    return Console(file=console.file, width=400)


def _rows(tally: Tally) -> str:
    """``1, 2, 5-8``."""
    runs: list[list[int]] = []
    for row in sorted(set(tally.rows)):
        if runs and row == runs[-1][-1] + 1:
            runs[-1].append(row)
        else:
            runs.append([row])
    return ", ".join(str(run[0]) if len(run) == 1 else f"{run[0]}-{run[-1]}" for run in runs)
