"""Builds the engine that runs on this machine."""

from __future__ import annotations

from quantpipe.assembly.engines import build_settings, ranges_beside, typed_source
from quantpipe.core.stage import Context, Inputs, Metrics, Outputs
from quantpipe.engines.engine import build_engine, float_layers, load_engine
from quantpipe.graph.onnx_file import input_size, read_onnx
from quantpipe.stages.build_engine.config import (
    CALIBRATION_CACHE,
    BuildEngineConfig,
)


def run(config: BuildEngineConfig, inputs: Inputs, outputs: Outputs, context: Context) -> Metrics:
    """Builds, loads what was built, and says what its layers run in."""
    engine = config.engine
    source = inputs["onnx"].path
    cache = inputs.get(CALIBRATION_CACHE)
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
