"""Quantization-aware fine-tuning of a calibrated network, taught by the float one."""

from __future__ import annotations

from quantpipe.core.artifact import ArtifactKind
from quantpipe.core.stage import Output, Stage, imported, may_take, takes
from quantpipe.stages.qat_distill.config import QatDistillConfig, check, content

STAGE = Stage(
    name="qat_distill",
    version=2,
    config_type=QatDistillConfig,
    inputs={
        "checkpoint": takes(ArtifactKind.CHECKPOINT),
        "scales": takes(ArtifactKind.SCALES),
        "plan": may_take(ArtifactKind.PLAN),
        "teacher": takes(ArtifactKind.CHECKPOINT),
    },
    outputs={
        "checkpoint": Output(kind=ArtifactKind.CHECKPOINT, file="checkpoint.safetensors"),
        "scales": Output(kind=ArtifactKind.SCALES, file="scales.json"),
        "history": Output(kind=ArtifactKind.HISTORY, file="history.json"),
    },
    run=imported("quantpipe.stages.qat_distill.run"),
    check=check,
    content=content,
)
