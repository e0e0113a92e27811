"""Accuracy, latency and size of every variant, measured side by side."""

from __future__ import annotations

from quantpipe.core.stage import Input, Output, Stage, imported
from quantpipe.stages.artifacts import ENGINE, EXAMPLES, METRICS, MODEL
from quantpipe.stages.evaluate.config import VARIANTS, EvaluateConfig, check, content

STAGE = Stage(
    name="evaluate",
    version=6,
    config_type=EvaluateConfig,
    # What an engine was built from is what it is compared with.
    inputs={VARIANTS: Input(kinds=frozenset({ENGINE, MODEL}), many=True, lineage=True)},
    outputs={"metrics": Output(kind=METRICS), "examples": Output(kind=EXAMPLES)},
    run=imported("quantpipe.stages.evaluate.run"),
    check=check,
    content=content,
)
