"""``sweep.json``: the jobs of a sweep side by side."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from rich.markup import escape
from rich.table import Table

from quantpipe.errors import ArtifactError
from quantpipe.files import write_json
from quantpipe.quantization.number_format import is_quantized
from quantpipe.report.number_text import milliseconds, percent, rate
from quantpipe.report.objective import Objective, best
from quantpipe.report.summary import load_summary
from quantpipe.report.variant import Variant


@dataclass(frozen=True, kw_only=True)
class SweepRow:
    """One job: what it overrode, and its variants or why there are none.

    ``objective`` holds a value for each objective of the sweep; None where one was not measured.
    """

    job: str
    overrides: tuple[str, ...]
    failure: str | None
    objective: tuple[float, ...] | None
    variants: tuple[Variant, ...]


@dataclass(frozen=True, kw_only=True)
class Sweep:
    """The whole of ``sweep.json``; ``best`` names the jobs that no other beats."""

    objective: tuple[str, ...]
    best: tuple[str, ...]
    jobs: tuple[SweepRow, ...]


@dataclass(frozen=True, kw_only=True)
class SweepJob:
    """A job that ended, well or not: where it should have left its ``summary.json``."""

    name: str
    overrides: tuple[str, ...]
    summary_path: Path
    failure: str | None = None


def build_sweep(jobs: Sequence[SweepJob], objectives: Sequence[Objective] = ()) -> Sweep:
    """Reads the summaries of the jobs; a job whose summary cannot be read is listed as failed."""
    rows = tuple(_row(job, objectives) for job in jobs)
    return Sweep(
        objective=tuple(map(str, objectives)),
        best=tuple(best({row.job: row.objective for row in rows}, objectives)),
        jobs=rows,
    )


def save_sweep(path: Path, sweep: Sweep) -> None:
    """Writes ``sweep.json`` atomically."""
    write_json(path, asdict(sweep))


def sweep_table(sweep: Sweep) -> Table:
    """Returns the comparison for a terminal.

    Overrides that all jobs share are left out. The best jobs by the objective are marked with a
    star, or without one the most precise INT8 variant of all.
    """
    table = Table(header_style="bold")
    for header in ("job", "overrides", "variant", "engine"):
        table.add_column(header, overflow="fold")
    for header in ("mAP 50:95", "drop", "ms", "fps"):
        table.add_column(header, justify="right")
    starred = None if sweep.objective else _most_precise(sweep)
    for row, differing in zip(sweep.jobs, _differing(sweep), strict=True):
        winner = " *" if row.job in sweep.best else ""
        lead = [escape(row.job) + winner, escape(" ".join(differing))]
        if row.failure is not None:
            table.add_row(*lead, "failed", "", "", "", "", "", style="red")
            table.add_row("", escape(row.failure), style="red")
        elif not row.variants:
            table.add_row(*lead, "none compared", style="dim")
        for variant in row.variants:
            star = " *" if variant is starred else ""
            table.add_row(*lead, escape(variant.name) + star, *_cells(variant))
            lead = ["", ""]
        table.add_section()
    return table


def best_lines(sweep: Sweep) -> list[str]:
    """A line for each of the best jobs: what it reached, and what it overrode."""
    lines = []
    for row, differing in zip(sweep.jobs, _differing(sweep), strict=True):
        if row.job in sweep.best:
            pairs = zip(sweep.objective, row.objective or (), strict=True)
            reached = ", ".join(f"{name} {value:.4g}" for name, value in pairs)
            lines.append(f"best: job {row.job}, {reached} ({' '.join(differing)})")
    return lines


def _row(job: SweepJob, objectives: Sequence[Objective]) -> SweepRow:
    failure, variants = job.failure, tuple[Variant, ...]()
    if failure is None:
        try:
            variants = load_summary(job.summary_path).variants
        except ArtifactError as error:
            failure = str(error)
    values = [objective.value(variants) for objective in objectives]
    known = tuple(value for value in values if value is not None)
    return SweepRow(
        job=job.name,
        overrides=job.overrides,
        failure=failure,
        objective=known if known and len(known) == len(values) else None,
        variants=variants,
    )


def _most_precise(sweep: Sweep) -> Variant | None:
    rivals = [
        (variant.map, variant)
        for row in sweep.jobs
        for variant in row.variants
        if variant.map is not None and is_quantized(variant.precision)
    ]
    return max(rivals, key=lambda rival: rival[0])[1] if rivals else None


def _differing(sweep: Sweep) -> list[list[str]]:
    """The overrides of each job that another job does not have; all of a lone job's."""
    jobs = [row.overrides for row in sweep.jobs]
    shared = set.intersection(*map(set, jobs)) if len(jobs) > 1 else set()
    return [[item for item in overrides if item not in shared] for overrides in jobs]


def _cells(variant: Variant) -> tuple[str, ...]:
    """As many as the last columns; times are those of the smallest batch."""
    batch = variant.smallest_batch or ""
    latency = variant.latency_ms.get(batch)
    return (
        escape(variant.engine),
        percent(variant.map, 2),
        percent(variant.drop_vs_fp32, 2),
        milliseconds(None if latency is None else latency.p50),
        rate(variant.fps.get(batch)),
    )
