"""The ONNX graph of a network: float, FP16, or with the Q/DQ pairs of its scale cache."""

from __future__ import annotations

from quantpipe.core.artifact import ArtifactKind
from quantpipe.core.stage import Output, Stage, imported, may_take, takes
from quantpipe.stages.export.config import ExportConfig, check, content

STAGE = Stage(
    name="export",
    version=2,
    config_type=ExportConfig,
    inputs={
        "checkpoint": takes(ArtifactKind.CHECKPOINT),
        "scales": may_take(ArtifactKind.SCALES),
        "plan": may_take(ArtifactKind.PLAN),
    },
    outputs={
        "onnx": Output(kind=ArtifactKind.ONNX, file="model.onnx"),
        "calibration_cache": Output(
            kind=ArtifactKind.CALIBRATION_CACHE, file="calibration.cache", required=False
        ),
    },
    run=imported("quantpipe.stages.export.run"),
    check=check,
    content=content,
)
