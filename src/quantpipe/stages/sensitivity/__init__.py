"""Ranks the operations by what INT8 in each does to the detector."""

from __future__ import annotations

from quantpipe.core.artifact import ArtifactKind
from quantpipe.core.stage import Output, Stage, imported, takes
from quantpipe.stages.sensitivity.config import SensitivityConfig, check, content

STAGE = Stage(
    name="sensitivity",
    version=2,
    config_type=SensitivityConfig,
    inputs={
        "checkpoint": takes(ArtifactKind.CHECKPOINT),
        "scales": takes(ArtifactKind.SCALES),
    },
    outputs={
        "table": Output(kind=ArtifactKind.SENSITIVITY, file="sensitivity.json"),
        "text": Output(kind=ArtifactKind.SENSITIVITY_TEXT, file="sensitivity.txt", required=False),
    },
    run=imported("quantpipe.stages.sensitivity.run"),
    check=check,
    content=content,
)
