"""``report.html``: a run on one page that needs nothing but itself."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from quantpipe.files import write_atomic
from quantpipe.report.number_text import decimal, duration, percent, rate, ratio
from quantpipe.report.summary import (
    BASELINE,
    HALF,
    Summary,
    batch_names,
    slower_than_half,
    speed_up,
)
from quantpipe.report.table import NUM_TEXT_COLUMNS, parity_text, variant_text
from quantpipe.report.variant import Variant


@dataclass(frozen=True, kw_only=True)
class Chart:
    """A picture with a heading; ``svg`` is one of this package's figures."""

    title: str
    caption: str
    svg: str


@dataclass(frozen=True, kw_only=True)
class Example:
    """One image with the detections of several variants: (variant name, PNG data URI) each."""

    title: str
    pictures: tuple[tuple[str, str], ...]


@dataclass(frozen=True, kw_only=True)
class Report:
    """What the page shows.

    ``settings`` are the values of each step, by step; ``provenance`` says where everything came
    from (digests, versions, paths).
    """

    summary: Summary
    charts: Sequence[Chart]
    examples: Sequence[Example]
    settings: Mapping[str, Mapping[str, object]]
    provenance: Mapping[str, str]


@dataclass(frozen=True, kw_only=True)
class KeyNumber:
    """A number of the headline and what it says."""

    value: str
    unit: str
    label: str


def render_report(report: Report) -> str:
    """Returns the page. All text is escaped; the page forbids itself every network access."""
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined)
    template = resources.files(__package__).joinpath("template.html").read_text(encoding="utf-8")
    summary = report.summary
    headline = headline_variant(summary)
    return environment.from_string(template).render(
        run=summary.run,
        took=duration(summary.run.seconds),
        headline=headline,
        key_numbers=[] if headline is None else key_numbers(summary, headline),
        table=variant_text(summary),
        num_text_columns=NUM_TEXT_COLUMNS,
        skipped=[variant for variant in summary.variants if variant.skipped is not None],
        slower=slower_than_half(summary),
        parity_table=parity_text(summary),
        charts=[(chart, Markup(chart.svg)) for chart in report.charts],  # noqa: S704 - our own SVG
        examples=report.examples,
        stages=_stage_rows(summary),
        settings={step: _flat(values) for step, values in report.settings.items()},
        provenance=report.provenance,
    )


def write_report(path: Path, report: Report) -> None:
    """Writes the page atomically."""
    write_atomic(path, render_report(report).encode())


def headline_variant(summary: Summary) -> Variant | None:
    """Returns the variant to be proud of: the most precise one that is quantized.

    Without any it is the most precise one, and without any measured one None.
    """
    measured = [variant for variant in summary.variants if variant.map is not None]
    quantized = [variant for variant in measured if variant.name not in (BASELINE, HALF)]
    return max(quantized or measured, key=lambda variant: variant.map or 0.0, default=None)


def key_numbers(summary: Summary, variant: Variant) -> list[KeyNumber]:
    """Returns what the headline says of a variant: precision, its loss, speed and size."""
    numbers = [KeyNumber(value=percent(variant.map), unit="", label="mAP 50:95")]
    if variant.drop_vs_fp32 is not None and variant.name != BASELINE:
        lost = variant.drop_vs_fp32
        label = "lost against float" if lost >= 0 else "gained over float"
        numbers.append(KeyNumber(value=percent(abs(lost)), unit="points", label=label))
    batches = [batch for batch in batch_names(summary) if batch in variant.fps]
    numbers += [_speed(summary, variant, batch) for batch in batches]
    if variant.size_mb is not None:
        numbers.append(KeyNumber(value=decimal(variant.size_mb), unit="MB", label="engine size"))
    return numbers


def _speed(summary: Summary, variant: Variant, batch: str) -> KeyNumber:
    fps, size = rate(variant.fps[batch]), batch[1:]
    against = speed_up(summary, variant, batch)
    if against is None or variant.name == HALF:
        return KeyNumber(value=fps, unit="fps", label=f"images a second at batch {size}")
    label = f"the speed of half precision at batch {size}: {fps} fps"
    return KeyNumber(value=ratio(against), unit="", label=label)


def _stage_rows(summary: Summary) -> list[dict[str, Any]]:
    """Steps with the share of the longest one's time, in percent, for the bars."""
    longest = max((stage.seconds for stage in summary.stages), default=0.0)
    return [
        {
            "step": stage.step,
            "time": duration(stage.seconds),
            "reused": stage.reused,
            "share": round(100 * stage.seconds / longest, 1) if longest > 0 else 0,
        }
        for stage in summary.stages
    ]


def _flat(values: Mapping[str, object], prefix: str = "") -> dict[str, str]:
    """Nested settings as dotted keys."""
    flat: dict[str, str] = {}
    for key, value in values.items():
        if isinstance(value, Mapping):
            flat.update(_flat(value, f"{prefix}{key}."))
        else:
            flat[f"{prefix}{key}"] = str(value)
    return flat
