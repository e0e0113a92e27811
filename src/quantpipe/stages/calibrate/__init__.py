"""Ranges for every operation, from unaugmented images, into the scale cache."""

from __future__ import annotations

from quantpipe.core.artifact import ArtifactKind
from quantpipe.core.stage import Output, Stage, imported, takes
from quantpipe.stages.calibrate.config import CalibrateConfig, check, content

STAGE = Stage(
    name="calibrate",
    version=2,
    config_type=CalibrateConfig,
    inputs={"checkpoint": takes(ArtifactKind.CHECKPOINT)},
    outputs={
        "checkpoint": Output(kind=ArtifactKind.CHECKPOINT, file="checkpoint.safetensors"),
        "scales": Output(kind=ArtifactKind.SCALES, file="scales.json"),
        "ranges": Output(kind=ArtifactKind.RANGES, file="ranges.json", required=False),
    },
    run=imported("quantpipe.stages.calibrate.run"),
    check=check,
    content=content,
)
