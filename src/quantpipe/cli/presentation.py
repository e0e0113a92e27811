"""What people look at after a run: summary, table, report, and the comparison of a sweep."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from rich.console import Console

from quantpipe import __version__
from quantpipe.cli.config import CheckedRun
from quantpipe.cli.steps import Skipped
from quantpipe.core.runner import StepRecord
from quantpipe.documents import record
from quantpipe.engines.hardware import processor
from quantpipe.progress import Progress
from quantpipe.report.objective import Objective
from quantpipe.report.summary import (
    RunInfo,
    StageTime,
    Summary,
    build_summary,
    save_summary,
)
from quantpipe.report.sweep import (
    SweepJob,
    best_lines,
    build_sweep,
    save_sweep,
    sweep_table,
)
from quantpipe.report.table import print_summary
from quantpipe.report.variant import Variant
from quantpipe.stages.artifacts import EXAMPLES
from quantpipe.versions import installed_versions

COMPARISON = "sweep.json"
"""What a sweep leaves in its folder beside the jobs."""

_LIBRARIES = ("torch", "onnx", "onnxruntime", "openvino", "hydra-core", "numpy")


def present(
    run: CheckedRun,
    records: Sequence[StepRecord],
    root: Path,
    started: datetime,
    seconds: float,
    progress: Progress,
) -> None:
    """Writes ``summary.json`` and ``report.html`` and prints the table."""
    summary = build_summary(
        _run_info(run, started, seconds),
        [*_measured(records), *_skipped(run, records)],
        [_time(record) for record in records],
    )
    save_summary(root / "summary.json", summary)
    _write_report(run, records, summary, root / "report.html")
    if summary.variants:
        print_summary(summary, Console())
    reused = sum(record.reused for record in records)
    skipped = sum(record.skipped is not None for record in records)
    more = f", {skipped} skipped" if skipped else ""
    progress.note(f"{len(records)} steps, {reused} reused{more}, {seconds:.1f} s")
    for objective in run.objectives:
        value = objective.value(summary.variants)
        progress.note(f"{objective}: {'not measured' if value is None else f'{value:.4g}'}")
    progress.note(f"report: {_shown(root / 'report.html')}")


def present_sweep(folder: Path, jobs: Sequence[SweepJob], objectives: Sequence[Objective]) -> None:
    """Writes ``sweep.json`` beside the jobs and prints their comparison."""
    sweep = build_sweep(jobs, objectives)
    save_sweep(folder / COMPARISON, sweep)
    console = Console()
    console.print(sweep_table(sweep))
    for line in best_lines(sweep):
        console.print(line, markup=False, highlight=False, soft_wrap=True)
    print(f"sweep: {_shown(folder / COMPARISON)}", file=sys.stderr)  # noqa: T201


def _run_info(run: CheckedRun, started: datetime, seconds: float) -> RunInfo:
    model, data = run.composed["model"], run.composed["data"]
    return RunInfo(
        pipeline=run.pipeline.name,
        command=shlex.join(["quantpipe", *run.overrides]),
        started=started.isoformat(timespec="seconds"),
        seconds=round(seconds, 3),
        seed=run.settings.seed,
        device=run.device,
        hardware=processor(),
        model=f"{model['name']} at {_size(model['image_size'])} px",
        data=str(data.get("root") or data["format"]),
        versions={"quantpipe": __version__, **installed_versions(_LIBRARIES)},
    )


def _size(image_size: int | Sequence[int]) -> int | str:
    """The side of a square, or height x width, as evaluation has it."""
    return image_size if isinstance(image_size, int) else "x".join(map(str, image_size))


def _measured(steps: Sequence[StepRecord]) -> Iterator[Variant]:
    for step in steps:
        for variant in step.metrics.get("variants", ()):
            yield record(Variant, variant)


def _skipped(run: CheckedRun, records: Sequence[StepRecord]) -> Iterator[Variant]:
    """Variants that this machine or its engine cannot run, known before or found out."""
    failed = {record.step: record.skipped for record in records if record.skipped is not None}
    found_out = {
        name: Skipped(precision=variant.precision, reason=failed[variant.step])
        for name, variant in run.variants.items()
        if variant.step in failed
    }
    for name, skipped in {**run.skipped, **found_out}.items():
        yield Variant(
            name=name,
            precision=skipped.precision,
            engine=run.composed["engine"]["name"],
            image_size=_size(run.composed["model"]["image_size"]),
            skipped=skipped.reason,
        )


def _time(record: StepRecord) -> StageTime:
    return StageTime(step=record.step, seconds=round(record.spent, 3), reused=record.reused)


def _write_report(
    run: CheckedRun, records: Sequence[StepRecord], summary: Summary, path: Path
) -> None:
    from quantpipe.report.html import Report, write_report
    from quantpipe.report.pages import examples, speed_charts

    made = [record.artifacts for record in records]
    drawn = [
        chart
        for step, record in zip(run.pipeline.steps, records, strict=True)
        if record.skipped is None
        for chart in step.stage.charts(record.step, record.artifacts, made)
    ]
    report = Report(
        summary=summary,
        charts=[*speed_charts(summary), *drawn],
        examples=[
            example
            for artifacts in made
            for artifact in artifacts.values()
            if artifact.kind == EXAMPLES
            for example in examples(artifact.path)
        ],
        settings=_settings(run),
        provenance={record.step: record.key for record in records if record.skipped is None},
    )
    write_report(path, report)


def _settings(run: CheckedRun) -> dict[str, Mapping[str, Any]]:
    """The values that each group and each step was run with."""
    return {
        name: {key: value for key, value in values.items() if key not in ("data", "model")}
        for name, values in run.composed.items()
        if isinstance(values, Mapping) and name != "pipeline"
    }


def _shown(path: Path) -> Path:
    """A path as a person would type it here."""
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path
