"""Accuracy, latency and size of every variant, measured side by side."""

from __future__ import annotations

from quantpipe.core.artifact import ArtifactKind
from quantpipe.core.stage import Input, Output, Stage, imported
from quantpipe.stages.evaluate.config import (
    COMPANIONS,
    MEASURABLE,
    EvaluateConfig,
    check,
    check_wiring,
    content,
)

STAGE = Stage(
    name="evaluate",
    version=3,
    config_type=EvaluateConfig,
    companion_prefixes=tuple(COMPANIONS),
    any_inputs=Input(kinds=MEASURABLE | frozenset(COMPANIONS.values())),
    outputs={
        "metrics": Output(kind=ArtifactKind.METRICS, file="metrics.json"),
        "examples": Output(kind=ArtifactKind.EXAMPLES, file="examples.json"),
    },
    run=imported("quantpipe.stages.evaluate.run"),
    check=check,
    check_wiring=check_wiring,
    content=content,
)
