"""Chooses which operations stay in float: by a ranking and a boundary, by budgets, or as given."""

from __future__ import annotations

from quantpipe.core.artifact import ArtifactKind
from quantpipe.core.stage import Output, Stage, imported, may_take, takes
from quantpipe.stages.partial_quant.config import PartialQuantConfig, check, content

STAGE = Stage(
    name="partial_quant",
    version=2,
    config_type=PartialQuantConfig,
    inputs={
        "checkpoint": takes(ArtifactKind.CHECKPOINT),
        "scales": takes(ArtifactKind.SCALES),
        "table": may_take(ArtifactKind.SENSITIVITY),
    },
    outputs={
        "plan": Output(kind=ArtifactKind.PLAN, file="plan.json"),
        "checkpoint": Output(kind=ArtifactKind.CHECKPOINT, file="checkpoint.safetensors"),
        "scales": Output(kind=ArtifactKind.SCALES, file="scales.json"),
    },
    run=imported("quantpipe.stages.partial_quant.run"),
    check=check,
    content=content,
)
