"""Builds the engine that runs on this machine."""

from __future__ import annotations

from quantpipe.core.artifact import ArtifactKind
from quantpipe.core.stage import Output, Stage, imported, may_take, takes
from quantpipe.stages.build_engine.config import (
    CALIBRATION_CACHE,
    BuildEngineConfig,
    check,
    check_wiring,
    content,
)

STAGE = Stage(
    name="build_engine",
    version=2,
    config_type=BuildEngineConfig,
    inputs={
        "onnx": takes(ArtifactKind.ONNX),
        CALIBRATION_CACHE: may_take(ArtifactKind.CALIBRATION_CACHE),
    },
    outputs={
        "engine": Output(kind=ArtifactKind.ENGINE, file="model.engine"),
        "half_onnx": Output(kind=ArtifactKind.ONNX, file="model.half.onnx", required=False),
        "trtexec": Output(kind=ArtifactKind.TRTEXEC, file="model.trtexec.txt", required=False),
        # As given, with the version in it that TensorRT wants there: the command lines name it.
        CALIBRATION_CACHE: Output(
            kind=ArtifactKind.CALIBRATION_CACHE, file="calibration.cache", required=False
        ),
    },
    run=imported("quantpipe.stages.build_engine.run"),
    check=check,
    check_wiring=check_wiring,
    content=content,
)
