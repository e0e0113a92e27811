"""Builds the engine that runs on this machine."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from quantpipe.core.artifact import ArtifactKind
from quantpipe.core.stage import Context, Inputs, Metrics, Output, Outputs, Stage, may_take, takes
from quantpipe.engines.engine import Precision
from quantpipe.engines.tensorrt_version import installed_tensorrt
from quantpipe.errors import ConfigurationError
from quantpipe.settings.engine import EngineSettings, check_engine, engine_place

_CACHE = "calibration_cache"


@dataclass(frozen=True, kw_only=True)
class BuildEngineConfig:
    """Settings of the stage; see ``conf/stage/build_engine.yaml``."""

    engine: EngineSettings
    precision: Precision


def check(config: BuildEngineConfig) -> None:
    """Finds a missing library, missing hardware, or a precision without kernels."""
    check_engine(config.engine, config.precision)


def check_wiring(config: BuildEngineConfig, kinds: Mapping[str, ArtifactKind]) -> None:
    """Refuses a calibration cache where the engine cannot take its ranges from one."""
    if _CACHE not in kinds:
        return
    if config.engine.name != "tensorrt":
        raise ConfigurationError(
            f"is read by TensorRT up to 10, not by {config.engine.name}",
            path=_CACHE,
            hint="leave it out and wire a graph with Q/DQ, or set engine=tensorrt",
        )
    if config.precision != "int8":
        raise ConfigurationError(
            f"holds ranges, which precision={config.precision} has no use for",
            path=_CACHE,
            hint="set precision=int8 or leave it out",
        )
    version = installed_tensorrt()
    if version is not None and not version.implicit_quantization:
        raise ConfigurationError(
            f"{version} takes ranges from Q/DQ nodes only, implicit quantization is gone since 11",
            path=_CACHE,
            hint="leave it out and wire a graph with Q/DQ (as pipelines=ptq does), "
            "or install TensorRT 10",
        )


def content(config: BuildEngineConfig, memo: Path) -> Mapping[str, Any]:  # noqa: ARG001
    """The library and the hardware."""
    return dict(engine_place(config.engine))


def run(config: BuildEngineConfig, inputs: Inputs, outputs: Outputs, context: Context) -> Metrics:
    """Builds, loads what was built, and says what its layers run in."""
    from quantpipe.assembly.engines import build_settings, ranges_beside, typed_source
    from quantpipe.engines.engine import build_engine, float_layers, load_engine
    from quantpipe.onnx_file import input_size, read_onnx

    engine = config.engine
    source = inputs["onnx"].path
    cache = inputs.get(_CACHE)
    settings = build_settings(
        engine,
        config.precision,
        context,
        image_size=input_size(source, read_onnx(source).model),
        calibration_cache=None if cache is None else ranges_beside(source, cache.path),
    )
    source = typed_source(
        engine.name,
        config.precision,
        engine.float_precision,
        source,
        outputs["half_onnx"],
        calibration_cache=cache is not None,
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
        _CACHE: may_take(ArtifactKind.CALIBRATION_CACHE),
    },
    outputs={
        "engine": Output(kind=ArtifactKind.ENGINE, file="model.engine"),
        "half_onnx": Output(kind=ArtifactKind.ONNX, file="model.half.onnx", required=False),
        "trtexec": Output(kind=ArtifactKind.TRTEXEC, file="model.trtexec.txt", required=False),
        # As given, with the version in it that TensorRT wants there: the command lines name it.
        _CACHE: Output(
            kind=ArtifactKind.CALIBRATION_CACHE, file="calibration.cache", required=False
        ),
    },
    run=run,
    check=check,
    check_wiring=check_wiring,
    content=content,
)
