"""Builds the engine that runs on this machine."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from quantpipe.core.artifact import ArtifactKind
from quantpipe.core.stage import Context, Inputs, Metrics, Output, Outputs, Stage, may_take, takes
from quantpipe.engines.engine import Precision
from quantpipe.settings.engine import EngineSettings, check_engine, engine_place


@dataclass(frozen=True, kw_only=True)
class BuildEngineConfig:
    """Settings of the stage; see ``conf/stage/build_engine.yaml``."""

    engine: EngineSettings
    precision: Precision


def check(config: BuildEngineConfig) -> None:
    """Finds a missing library, missing hardware, or a precision without kernels."""
    check_engine(config.engine, config.precision)


def content(config: BuildEngineConfig, memo: Path) -> Mapping[str, Any]:  # noqa: ARG001
    """The library and the hardware."""
    return dict(engine_place(config.engine))


def run(config: BuildEngineConfig, inputs: Inputs, outputs: Outputs, context: Context) -> Metrics:
    """Builds, loads what was built, and says what its layers run in."""
    from quantpipe.assembly.engines import build_settings, typed_source
    from quantpipe.engines.engine import build_engine, float_layers, load_engine
    from quantpipe.onnx_file import input_size, read_onnx

    engine = config.engine
    source = inputs["onnx"].path
    cache = inputs.get("calibration_cache")
    settings = build_settings(
        engine,
        config.precision,
        image_size=input_size(source, read_onnx(source).model),
        calibration_cache=None if cache is None else cache.path.read_text(),
    )
    source = typed_source(
        engine.name, config.precision, engine.float_precision, source, outputs["half_onnx"]
    )
    context.progress.status(f"building with {engine.name}")
    build_engine(engine.name, source, outputs["engine"], settings)
    built = load_engine(engine.name, outputs["engine"])
    try:
        layers = built.layers()
    finally:
        built.close()
    return {
        "engine": engine.name,
        "precision": config.precision,
        "image_size": settings.image_size,
        "mib": outputs["engine"].stat().st_size / 2**20,
        "num_quantizable": sum(layer.quantizable for layer in layers),
        "float_layers": [layer.name for layer in float_layers(layers)],
        "layers": [[layer.name, layer.kind, layer.precision] for layer in layers],
    }


STAGE = Stage(
    name="build_engine",
    version=2,
    config_type=BuildEngineConfig,
    inputs={
        "onnx": takes(ArtifactKind.ONNX),
        "calibration_cache": may_take(ArtifactKind.CALIBRATION_CACHE),
    },
    outputs={
        "engine": Output(kind=ArtifactKind.ENGINE, file="model.engine"),
        "half_onnx": Output(kind=ArtifactKind.ONNX, file="model.half.onnx", required=False),
        "trtexec": Output(kind=ArtifactKind.TRTEXEC, file="model.trtexec.txt", required=False),
    },
    run=run,
    check=check,
    content=content,
)
