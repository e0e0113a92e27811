"""Stages that write a line of text, and processes that die: the runner without detectors."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from quantpipe.core.artifact import ArtifactKind
from quantpipe.core.pipeline import Pipeline, Reference, Step
from quantpipe.core.run_cache import RunCache
from quantpipe.core.run_directory import RunDirectory
from quantpipe.core.runner import Runner
from quantpipe.core.signals import StopRequest
from quantpipe.core.stage import (
    Context,
    Inputs,
    Metrics,
    Output,
    Outputs,
    Stage,
    may_take,
    takes,
)
from quantpipe.progress import Silent
from quantpipe.schema import Between, ExecutionOnly


class Notes(Silent):
    """Keeps what it is told."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def note(self, text: str) -> None:
        self.lines.append(text)


TEXT = ArtifactKind(name="text", files=("text.txt",), optional_files=("title.txt",))
"""A line; it may have a title."""

REMARK = ArtifactKind(name="remark", files=("extra.txt",))


@dataclass(frozen=True, kw_only=True)
class TextConfig:
    text: str
    log: Path
    num_workers: Annotated[int, Between(0), ExecutionOnly()]


def append(config: TextConfig, inputs: Inputs, outputs: Outputs, context: Context) -> Metrics:
    """Writes the texts of the inputs and its own; counts its executions in ``config.log``."""
    with config.log.open("a") as log:
        log.write(f"{context.step}\n")
    before = [artifact.path.read_text() for _, artifact in sorted(inputs.items())]
    text = "".join([*before, config.text])
    outputs["text"].write_text(text)
    return {"length": len(text)}


def stage(run: Callable[..., Metrics] = append, **changes: Any) -> Stage[TextConfig]:
    """A stage that takes one text, perhaps a second, and writes one."""
    settings: dict[str, Any] = {
        "name": "append",
        "version": 1,
        "config_type": TextConfig,
        "inputs": {
            "text": may_take(TEXT),
            "more": may_take(TEXT),
        },
        "outputs": {
            "text": Output(kind=TEXT),
            "extra": Output(kind=REMARK, required=False),
        },
        "run": run,
    }
    return Stage(**settings | changes)


def needy(**changes: Any) -> Stage[TextConfig]:
    """A stage that must be wired to a remark."""
    return stage(name="needy", inputs={"remark": takes(REMARK)}, **changes)


def step(name: str, log: Path, inputs: dict[str, str] | None = None, **changes: Any) -> Step:
    """A step that appends its own name."""
    chosen = changes.pop("stage", stage())
    settings: dict[str, Any] = {"text": name, "log": log, "num_workers": 1}
    return Step(
        name=name,
        stage=chosen,
        config=TextConfig(**settings | changes),
        inputs={key: reference(text) for key, text in (inputs or {}).items()},
    )


def reference(text: str) -> Reference:
    """``<step>.<output>``, or ``<step>`` where its name has no dot."""
    before, _, after = text.rpartition(".")
    return Reference(step=before or after, output=after if before else None)


def chain(log: Path) -> Pipeline:
    """Three steps in a row."""
    steps = (
        step("first", log),
        step("second", log, {"text": "first.text"}),
        step("third.part", log, {"text": "second.text"}),
    )
    return Pipeline(name="chain", steps=steps)


def runner(folder: Path, notes: Notes | None = None, stop: StopRequest | None = None) -> Runner:
    """A runner on ``folder/cache`` and ``folder/run``, as a new process would make it."""
    notes = notes or Notes()
    return Runner(
        cache=RunCache(folder / "cache", warn=notes.note),
        run_directory=RunDirectory(folder / "run", warn=notes.note),
        progress=notes,
        stop=stop or StopRequest(),
        seed=7,
        device="cpu",
    )


def executions(log: Path) -> list[str]:
    """Which steps really ran, in order."""
    return log.read_text().split() if log.exists() else []


_OPERATIONS = ("open", "os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.truncate")


def on_file_operation(number: int, folder: Path, act: Callable[[], None]) -> None:
    """Calls ``act`` before the ``number``-th file operation below ``folder`` (in a forked process).

    Counted are what Python audits, ``os.fsync`` and ``os.copy_file_range``.
    """
    seen = 0

    def count() -> None:
        nonlocal seen
        seen += 1
        if seen == number:
            act()

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if event in _OPERATIONS and str(arguments[0]).startswith(str(folder)):
            count()

    sync = os.fsync

    def counted_fsync(fd: Any) -> None:
        count()
        sync(fd)

    copy = os.copy_file_range

    def counted_copy(*arguments: Any) -> int:
        count()
        return copy(*arguments)

    os.fsync = counted_fsync
    os.copy_file_range = counted_copy  # type: ignore[assignment]
    sys.addaudithook(hook)


def die() -> None:
    """Ends this process as a crash of the machine would."""
    os.kill(os.getpid(), signal.SIGKILL)
