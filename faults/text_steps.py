"""Stages and steps that write a line of text: the store and the runner without detectors."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from quantpipe.core.artifact import ArtifactKind
from quantpipe.core.pipeline import Reference, Step
from quantpipe.core.stage import Context, Inputs, Metrics, Output, Outputs, Stage, may_take

TEXT = ArtifactKind(name="text", files=("text.txt",))
EXTRA = ArtifactKind(name="extra", files=("extra.txt",))


@dataclass(frozen=True, kw_only=True)
class TextConfig:
    """What a step writes, and where it notes that it ran."""

    text: str
    log: Path


def append(config: TextConfig, inputs: Inputs, outputs: Outputs, context: Context) -> Metrics:
    """Writes the texts of the inputs and its own; notes its execution in ``config.log``."""
    with config.log.open("a") as log:
        log.write(f"{context.step}\n")
    before = [artifact.path.read_text() for _, artifact in sorted(inputs.items())]
    outputs["text"].write_text("".join([*before, config.text]))
    return {"inputs": len(before)}


def stage(run: Callable[..., Metrics] = append, **changes: Any) -> Stage[TextConfig]:
    """A stage that takes up to two texts and writes one, perhaps two."""
    settings: dict[str, Any] = {
        "name": "append",
        "version": 1,
        "config_type": TextConfig,
        "inputs": {"text": may_take(TEXT), "more": may_take(TEXT)},
        "outputs": {
            "text": Output(kind=TEXT),
            "extra": Output(kind=EXTRA, required=False),
        },
        "run": run,
    }
    return Stage(**settings | changes)


def step(
    name: str, log: Path, stage: Stage[TextConfig], inputs: Mapping[str, str] | None = None
) -> Step:
    """A step that appends its own name."""
    return Step(
        name=name,
        stage=stage,
        config=TextConfig(text=name, log=log),
        inputs={key: _reference(text) for key, text in (inputs or {}).items()},
    )


def _reference(text: str) -> Reference:
    name, _, output = text.rpartition(".")
    return Reference(step=name, output=output)
