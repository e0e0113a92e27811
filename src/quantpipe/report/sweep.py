"""``sweep.json``: the jobs of a sweep side by side."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypedDict

from rich.markup import escape
from rich.table import Table

from quantpipe.errors import ArtifactError
from quantpipe.files import write_json
from quantpipe.report.number_text import milliseconds, percent, rate
from quantpipe.report.summary import Summary, load_summary


class SweepVariant(TypedDict):
    """What is compared of a variant; latency and fps are those of the smallest batch."""

    name: str
    precision: str
    engine: str
    map: float | None
    map50: float | None
    drop_vs_fp32: float | None
    latency_ms: float | None
    fps: float | None


class SweepRow(TypedDict):
    """One job: what it overrode, and its variants or why there are none."""

    job: str
    overrides: list[str]
    failure: str | None
    variants: list[SweepVariant]


class Sweep(TypedDict):
    """The whole of ``sweep.json``."""

    jobs: list[SweepRow]


@dataclass(frozen=True, kw_only=True)
class SweepJob:
    """A job that ended, well or not: where it should have left its ``summary.json``."""

    name: str
    overrides: tuple[str, ...]
    summary_path: Path
    failure: str | None = None


def build_sweep(jobs: Sequence[SweepJob]) -> Sweep:
    """Reads the summaries of the jobs; a job whose summary cannot be read is listed as failed."""
    return {"jobs": [_row(job) for job in jobs]}


def save_sweep(path: Path, sweep: Sweep) -> None:
    """Writes ``sweep.json`` atomically."""
    write_json(path, sweep)


def sweep_table(sweep: Sweep) -> Table:
    """Returns the comparison for a terminal.

    Overrides that all jobs share are left out. The most precise INT8 variant of all is marked
    with a star.
    """
    table = Table(header_style="bold")
    for header in ("job", "overrides", "variant", "engine"):
        table.add_column(header, overflow="fold")
    for header in ("mAP 50:95", "drop", "ms", "fps"):
        table.add_column(header, justify="right")
    best = _best(sweep)
    for row, differing in zip(sweep["jobs"], _differing(sweep), strict=True):
        lead = [escape(row["job"]), escape(" ".join(differing))]
        if row["failure"] is not None:
            table.add_row(*lead, "failed", "", "", "", "", "", style="red")
            table.add_row("", escape(row["failure"]), style="red")
        for variant in row["variants"]:
            star = " *" if variant is best else ""
            table.add_row(*lead, escape(variant["name"]) + star, *_cells(variant))
            lead = ["", ""]
        table.add_section()
    return table


def _row(job: SweepJob) -> SweepRow:
    failure, variants = job.failure, list[SweepVariant]()
    if failure is None:
        try:
            variants = _variants(load_summary(job.summary_path))
        except ArtifactError as error:
            failure = str(error)
    return {
        "job": job.name,
        "overrides": list(job.overrides),
        "failure": failure,
        "variants": variants,
    }


def _variants(summary: Summary) -> list[SweepVariant]:
    rows: list[SweepVariant] = []
    for variant in summary["variants"]:
        batch = min(variant["fps"], key=lambda name: int(name[1:]), default="")
        latency = variant["latency_ms"].get(batch)
        rows.append(
            {
                "name": variant["name"],
                "precision": variant["precision"],
                "engine": variant["engine"],
                "map": variant["map"],
                "map50": variant["map50"],
                "drop_vs_fp32": variant["drop_vs_fp32"],
                "latency_ms": None if latency is None else latency["p50"],
                "fps": variant["fps"].get(batch),
            }
        )
    return rows


def _best(sweep: Sweep) -> SweepVariant | None:
    rivals = [
        (variant["map"], variant)
        for row in sweep["jobs"]
        for variant in row["variants"]
        if variant["map"] is not None and "int8" in variant["precision"].lower()
    ]
    return max(rivals, key=lambda rival: rival[0])[1] if rivals else None


def _differing(sweep: Sweep) -> list[list[str]]:
    """The overrides of each job that another job does not have; all of a lone job's."""
    jobs = [row["overrides"] for row in sweep["jobs"]]
    shared = set.intersection(*map(set, jobs)) if len(jobs) > 1 else set()
    return [[item for item in overrides if item not in shared] for overrides in jobs]


def _cells(variant: SweepVariant) -> tuple[str, ...]:
    return (
        escape(variant["engine"]),
        percent(variant["map"], 2),
        percent(variant["drop_vs_fp32"], 2),
        milliseconds(variant["latency_ms"]),
        rate(variant["fps"]),
    )
