"""The tables that a run ends with, in the shape of the published ones."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from quantpipe.report.number_text import (
    ABSENT,
    count,
    decimal,
    duration,
    milliseconds,
    percent,
    rate,
    ratio,
    significant,
)
from quantpipe.report.summary import (
    StageTime,
    Summary,
    batch_names,
    slower_than_half,
    speed_up,
)
from quantpipe.report.variant import Parity, Variant

NUM_TEXT_COLUMNS = 3
"""Leading columns of the variant table that hold words; the others hold numbers."""

_EXPENDABLE = ("float layers", "ms b1", "mAP 50", "engine", "agreement", "vs half")
_BORDER = 3  # a line and a space on either side of each cell


@dataclass(frozen=True, kw_only=True)
class TextTable:
    """A table as text: what the terminal and the HTML report both show."""

    headers: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


def variant_text(summary: Summary) -> TextTable:
    """Returns one row for each variant; average precision and drop in points, as published.

    A positive drop is lost precision; agreement is the precision against what the float variant is
    confident of, 100 where it finds the same. The speed-up is against the float model at half
    precision, for each batch size in turn.
    """
    batches = batch_names(summary)
    return TextTable(
        headers=(
            "variant",
            "precision",
            "engine",
            "size",
            "mAP 50:95",
            "drop",
            "agreement",
            "mAP 50",
            *(f"ms {batch}" for batch in batches[:1]),
            *(f"fps {batch}" for batch in batches),
            "vs half",
            "MB",
            "float layers",
        ),
        rows=tuple(_variant_row(summary, variant, batches) for variant in summary.variants),
    )


def parity_text(summary: Summary) -> TextTable:
    """Returns one row for each engine that was compared with the network it came from.

    Differences of boxes in pixels and of scores; agreement and the difference in mAP in points.
    """
    return TextTable(
        headers=(
            "variant",
            "engine",
            "against",
            "images",
            "px mean",
            "px max",
            "score mean",
            "score max",
            "agreement",
            "mAP diff",
        ),
        rows=tuple(
            _parity_row(variant, variant.parity)
            for variant in summary.variants
            if variant.parity is not None
        ),
    )


def _parity_row(variant: Variant, parity: Parity) -> tuple[str, ...]:
    return (
        variant.name,
        variant.engine,
        parity.reference,
        str(parity.num_images),
        significant(parity.box_mean_abs),
        significant(parity.box_max_abs),
        significant(parity.score_mean_abs),
        significant(parity.score_max_abs),
        percent(parity.agreement),
        percent(parity.map_delta, 2),
    )


def stage_text(stages: Sequence[StageTime]) -> TextTable:
    """Returns one row for each step."""
    return TextTable(
        headers=("step", "time", "reused"),
        rows=tuple(
            (stage.step, duration(stage.seconds), "yes" if stage.reused else "") for stage in stages
        ),
    )


def variant_table(summary: Summary, width: int | None = None) -> Table:
    """Returns the table of variants for a terminal.

    Where it is wider than ``width`` characters it loses columns, the published ones last.
    """
    text = variant_text(summary)
    for header in _EXPENDABLE:
        if width is None or _width(text) <= width:
            break
        text = _without(text, header)
    return _rich(text, text.headers.index("size"))


def _width(text: TextTable) -> int:
    columns = zip(text.headers, *text.rows, strict=True)
    return sum(max(map(len, column)) + _BORDER for column in columns) + 1


def _without(text: TextTable, header: str) -> TextTable:
    if header not in text.headers:
        return text
    place = text.headers.index(header)
    return TextTable(
        headers=text.headers[:place] + text.headers[place + 1 :],
        rows=tuple(row[:place] + row[place + 1 :] for row in text.rows),
    )


def stage_table(summary: Summary) -> Table:
    """Returns the table of steps for a terminal."""
    return _rich(stage_text(summary.stages), 1)


def print_summary(summary: Summary, console: Console) -> None:
    """Prints both tables, why any variant was skipped, and which INT8 variants are not faster."""
    console.print(stage_table(summary))
    console.print(variant_table(summary, console.width))
    for variant in summary.variants:
        if variant.skipped is not None:
            console.print(
                f"{variant.name} on {variant.engine} was skipped: {variant.skipped}",
                markup=False,
                highlight=False,
                soft_wrap=True,
            )
    for line in slower_than_half(summary):
        console.print(line, markup=False, highlight=False, soft_wrap=True)


def _variant_row(summary: Summary, variant: Variant, batches: list[str]) -> tuple[str, ...]:
    latency = variant.latency_ms
    ratios = [ratio(speed_up(summary, variant, batch)) for batch in batches]
    return (
        variant.name,
        "skipped" if variant.skipped is not None else variant.precision,
        variant.engine,
        str(variant.image_size),
        percent(variant.map),
        percent(variant.drop_vs_fp32),
        percent(variant.agreement),
        percent(variant.map50),
        *(milliseconds(latency[batch].p50 if batch in latency else None) for batch in batches[:1]),
        *(rate(variant.fps.get(batch)) for batch in batches),
        ABSENT if set(ratios) <= {ABSENT} else " / ".join(ratios),
        decimal(variant.size_mb),
        count(variant.float_layers),
    )


def _rich(text: TextTable, num_text_columns: int) -> Table:
    table = Table(header_style="bold")
    for index, header in enumerate(text.headers):
        table.add_column(
            header,
            justify="left" if index < num_text_columns else "right",
            overflow="fold",
        )
    for row in text.rows:
        style = "dim" if "skipped" in row else None
        table.add_row(*map(escape, row), style=style)
    return table
