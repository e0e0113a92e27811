"""Dispatches the steps of a pipeline, reusing whatever was made before."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from quantpipe.core.artifact import Artifact
from quantpipe.core.attribution import attribute_errors
from quantpipe.core.entry import Built, Entry, key_of
from quantpipe.core.pipeline import Pipeline, Step
from quantpipe.core.run_cache import RunCache
from quantpipe.core.run_directory import RunDirectory
from quantpipe.core.signals import StopRequest
from quantpipe.core.stage import Context, Inputs
from quantpipe.errors import (
    ArtifactError,
    ConfigurationError,
    Interrupted,
    MachineError,
    QuantpipeError,
)
from quantpipe.identity import identity
from quantpipe.progress import Progress


@dataclass(frozen=True, kw_only=True)
class StepRecord:
    """What became of a step.

    ``seconds`` is what making the result took, now or in an earlier run; ``spent`` is what this
    run spent on the step. ``skipped`` says why there is no result of an optional one.
    """

    step: str
    stage: str
    key: str
    seconds: float
    spent: float
    reused: bool
    artifacts: Mapping[str, Artifact]
    metrics: Mapping[str, Any]
    skipped: str | None = None

    def as_json(self) -> dict[str, Any]:
        """The record as it stands in the run manifest; files by digest, not by path."""
        outputs = {
            name: {"kind": a.kind.name, "files": dict(a.digests)}
            for name, a in self.artifacts.items()
        }
        return {
            "stage": self.stage,
            "key": self.key,
            "seconds": self.seconds,
            "reused": self.reused,
            "outputs": outputs,
            "metrics": dict(self.metrics),
        }


@dataclass(frozen=True, kw_only=True)
class Runner:
    """Everything a run needs besides its pipeline."""

    cache: RunCache
    run_directory: RunDirectory
    progress: Progress
    stop: StopRequest = field(default_factory=StopRequest)
    seed: int
    device: str


def check_pipeline(pipeline: Pipeline) -> None:
    """Raises for whatever the stages can know to be wrong before any work."""
    for step in pipeline.steps:
        with attribute_errors(step.name):
            try:
                step.stage.check(step.config)
            except ConfigurationError as error:
                error.path = f"{step.name}.{error.path}"
                error.stage = ""  # the key names the step
                raise


def run_pipeline(pipeline: Pipeline, runner: Runner) -> tuple[StepRecord, ...]:
    """Runs or reuses every step in order and places its files in the run directory.

    An optional step that fails is skipped, with the reason, and the rest goes on.

    Raises:
        QuantpipeError: with the step's name; what was finished before it is kept.
    """
    records: dict[str, StepRecord] = {}
    directory = runner.run_directory
    runner.cache.clear_staging()
    for number, step in enumerate(pipeline.steps, start=1):
        runner.stop.raise_if_set()
        directory.write_status("running", step.name)
        record = _run_or_skip(step, runner, records)
        records[step.name] = record
        made = {n: r.as_json() for n, r in records.items() if r.skipped is None}
        directory.write_manifest(pipeline.name, made)
        how = f"reused {record.key[:12]}" if record.reused else f"{record.spent:.1f} s"
        if record.skipped is not None:
            how = f"skipped: {record.skipped}"
        runner.progress.note(f"[{number}/{len(pipeline.steps)}] {step.name}: {how}")
    return tuple(records.values())


def _run_or_skip(step: Step, runner: Runner, records: Mapping[str, StepRecord]) -> StepRecord:
    start = time.monotonic()
    reason = _not_made(step, records)
    if reason is not None and step.optional:
        return _skipped(step, reason, start)
    try:
        with attribute_errors(step.name), runner.stop.explained():
            if reason is not None:
                raise MachineError(f"what it works with could not be made: {reason}")
            return _run_step(_without_skipped(step, records), runner, records)
    except Interrupted:
        raise
    except Exception as error:
        if not step.optional:
            raise
        cause = " ".join(str(error).split())
        if not isinstance(error, QuantpipeError):
            cause = f"{step.name}: {type(error).__name__}: {cause}"
        return _skipped(step, cause, start)


def _skipped(step: Step, reason: str, start: float) -> StepRecord:
    return StepRecord(
        step=step.name,
        stage=step.stage.name,
        key="",
        seconds=0.0,
        spent=time.monotonic() - start,
        reused=False,
        artifacts={},
        metrics={},
        skipped=reason,
    )


def _not_made(step: Step, records: Mapping[str, StepRecord]) -> str | None:
    """Why an input was not made, if so; of those that come from every variant one is enough."""
    for name, declared in step.stage.inputs.items():
        sources = [r.step for n, r in step.inputs.items() if n.partition(".")[0] == name]
        reasons = [reason for source in sources if (reason := records[source].skipped)]
        if reasons and (not declared.many or len(reasons) == len(sources)):
            return reasons[0]
    return None


def _without_skipped(step: Step, records: Mapping[str, StepRecord]) -> Step:
    inputs = {name: r for name, r in step.inputs.items() if records[r.step].skipped is None}
    return replace(step, inputs=inputs)


def _run_step(step: Step, runner: Runner, records: Mapping[str, StepRecord]) -> StepRecord:
    start = time.monotonic()
    made = {
        name: records[reference.step].artifacts.get(str(reference.output))
        for name, reference in step.inputs.items()
    }
    inputs = {name: artifact for name, artifact in made.items() if artifact is not None}
    _require_inputs(step, inputs)
    content = step.stage.content(step.config, _memo(runner.cache))
    named_by = step_identity(step, inputs, content, seed=runner.seed, device=runner.device)
    key = key_of(named_by)
    entry, reused = runner.cache.get_or_build(
        key, named_by, lambda folder: _execute(step, inputs, folder, key, runner)
    )
    runner.run_directory.place(step.name, entry)
    return StepRecord(
        step=step.name,
        stage=step.stage.name,
        key=key,
        seconds=entry.seconds,
        spent=time.monotonic() - start,
        reused=reused,
        artifacts=_artifacts(step, entry, inputs),
        metrics=entry.metrics,
    )


def _require_inputs(step: Step, inputs: Inputs) -> None:
    """An output that its stage had no reason to write is missed only where it is needed."""
    for name, reference in step.inputs.items():
        declared = step.stage.input_of(name)
        if name not in inputs and declared is not None and declared.required:
            raise ArtifactError(f"{reference} was not written", path=f"{step.name}.inputs.{name}")


def step_identity(
    step: Step, inputs: Inputs, content: Mapping[str, Any], *, seed: int, device: str
) -> dict[str, Any]:
    """All that a step's result depends on: content only, never a path or a time."""
    return {
        "stage": step.stage.name,
        "version": step.stage.version,
        "config": identity(step.config),
        "content": dict(content),
        "inputs": {
            name: artifact.identity(lineage=_looks_back(step, name))
            for name, artifact in sorted(inputs.items())
        },
        "seed": seed,
        "device": device,
    }


def _looks_back(step: Step, name: str) -> bool:
    declared = step.stage.input_of(name)
    return declared is not None and declared.lineage


def _execute(step: Step, inputs: Inputs, folder: Path, key: str, runner: Runner) -> Built:
    outputs = {name: folder / output.kind.files[0] for name, output in step.stage.outputs.items()}
    context = Context(
        step=step.name,
        seed=runner.seed,
        device=runner.device,
        progress=runner.progress,
        progress_folder=runner.cache.progress_folder(key),
        materialize=_materializer(runner.cache),
        memo=_memo(runner.cache),
    )
    start = time.monotonic()
    metrics = step.stage.run(step.config, inputs, outputs, context)
    for name, output in step.stage.outputs.items():
        missing = [file for file in output.kind.files if not (folder / file).is_file()]
        assert not (missing and output.required), f"{step.stage.name} did not write its {name}"
    return Built(metrics=metrics, seconds=time.monotonic() - start)


def _memo(cache: RunCache) -> Path:
    return cache.root / "memo"


def _materializer(
    cache: RunCache,
) -> Callable[[Mapping[str, Any], Callable[[Path], None]], Path]:
    def materialize(named_by: Mapping[str, Any], build: Callable[[Path], None]) -> Path:
        def write(folder: Path) -> Built:
            start = time.monotonic()
            build(folder)
            return Built(metrics={}, seconds=time.monotonic() - start)

        material = {"material": dict(named_by)}
        entry, _ = cache.get_or_build(key_of(material), material, write)
        return entry.folder

    return materialize


def _artifacts(step: Step, entry: Entry, inputs: Inputs) -> dict[str, Artifact]:
    found = {}
    for name, output in step.stage.outputs.items():
        kind = output.kind
        missing = [file for file in kind.files if file not in entry.digests]
        if missing:
            if not output.required:
                continue
            raise ArtifactError(f"cache entry {entry.key[:12]} holds no {missing[0]}")
        there = (*kind.files, *kind.optional_files)
        digests = {file: entry.digests[file] for file in there if file in entry.digests}
        found[name] = Artifact(kind=kind, folder=entry.folder, digests=digests, sources=inputs)
    return found
