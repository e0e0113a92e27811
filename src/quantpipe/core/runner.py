"""Dispatches the steps of a pipeline, reusing whatever was made before."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from quantpipe.core.artifact import Artifact
from quantpipe.core.entry import Built, Entry, key_of
from quantpipe.core.pipeline import Pipeline, Step
from quantpipe.core.run_cache import RunCache
from quantpipe.core.run_directory import RunDirectory
from quantpipe.core.signals import StopRequest
from quantpipe.core.stage import Context, Inputs
from quantpipe.errors import (
    ArtifactError,
    ConfigurationError,
    MachineError,
    QuantpipeError,
)
from quantpipe.files import FULL, NoRoomError
from quantpipe.progress import Progress
from quantpipe.schema import identity

_MIB = 1 << 20
_OUT_OF_MEMORY = ("out of memory", "not enough memory", "can't allocate memory")


@dataclass(frozen=True, kw_only=True)
class StepRecord:
    """What became of a step.

    ``seconds`` is what making the result took, now or in an earlier run; ``spent`` is what this
    run spent on the step.
    """

    step: str
    stage: str
    key: str
    seconds: float
    spent: float
    reused: bool
    artifacts: Mapping[str, Artifact]
    metrics: Mapping[str, Any]

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

    Raises:
        QuantpipeError: with the step's name; what was finished before it is kept.
    """
    records: dict[str, StepRecord] = {}
    directory = runner.run_directory
    runner.cache.clear_staging()
    for number, step in enumerate(pipeline.steps, start=1):
        runner.stop.raise_if_set()
        directory.write_status("running", step.name)
        with attribute_errors(step.name), runner.stop.explained():
            record = _run_step(step, runner, records)
        records[step.name] = record
        directory.write_manifest(pipeline.name, {n: r.as_json() for n, r in records.items()})
        how = f"reused {record.key[:12]}" if record.reused else f"{record.spent:.1f} s"
        runner.progress.note(f"[{number}/{len(pipeline.steps)}] {step.name}: {how}")
    return tuple(records.values())


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


@contextmanager
def attribute_errors(step: str | None) -> Iterator[None]:
    """Gives errors the name of the step, and faults of the machine an exit code and a hint."""
    try:
        yield
    except QuantpipeError as error:
        error.stage = step if error.stage is None else error.stage
        raise
    except OSError as error:
        raise _from_os_error(error, step) from error
    except (MemoryError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and not _is_out_of_memory(error):
            raise
        fault = MachineError("out of memory", hint="lower its batch_size or the image size")
        fault.stage = step
        raise fault from error


def _is_out_of_memory(error: RuntimeError) -> bool:
    return any(text in str(error).lower() for text in _OUT_OF_MEMORY)


def _from_os_error(error: OSError, step: str | None) -> MachineError:
    cause = error.strerror or str(error)
    hint = "see that the path can be written and read"
    if error.errno in FULL:
        free = shutil.disk_usage(_existing(Path(error.filename or "."))).free / _MIB
        needed = ""
        if isinstance(error, NoRoomError):
            needed = f"at least {error.needed / _MIB:.1f} MiB are needed and "
        hint = (
            f"{needed}{free:.1f} MiB are free there; "
            "make room or set cache_dir and run_dir elsewhere"
        )
    fault = MachineError(cause, path=error.filename, hint=hint)
    fault.stage = step
    return fault


def _existing(path: Path) -> Path:
    """The nearest folder above a path that is still there."""
    return next(folder for folder in (path, *path.absolute().parents) if folder.exists())
