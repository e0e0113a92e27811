"""Builds the engine that runs on this machine."""

from __future__ import annotations

from quantpipe.core.stage import Context, Inputs, Metrics, Outputs
from quantpipe.engines.contract import BuildInputs, BuildSettings, float_layers
from quantpipe.engines.registry import build_engine, load_engine
from quantpipe.engines.source import typed_source
from quantpipe.engines.tensorrt.calibration_cache import ranges_beside
from quantpipe.graph.onnx_file import input_size, read_onnx
from quantpipe.quantization.model_files import CALIBRATION_CACHE
from quantpipe.stages.artifacts import HALF_GRAPH
from quantpipe.stages.build_engine.config import BuildEngineConfig


def run(config: BuildEngineConfig, inputs: Inputs, outputs: Outputs, context: Context) -> Metrics:
    """Builds, loads what was built, and says what its layers run in."""
    name = config.engine.name
    source = inputs["graph"].path
    cache = inputs["graph"].file(CALIBRATION_CACHE)
    settings = BuildSettings(
        engine=config.engine,
        precision=config.precision,
        image_size=input_size(source, read_onnx(source).model),
    )
    beside = BuildInputs(
        calibration_cache=None if cache is None else ranges_beside(source, cache),
        memo=context.memo,
        note=context.progress.note,
    )
    half = outputs["engine"].with_name(HALF_GRAPH)
    source = typed_source(settings, source, half, calibration_cache=cache is not None)
    context.progress.status(f"building with {name}")
    build_engine(source, outputs["engine"], settings, beside)
    built = load_engine(name, outputs["engine"])
    try:
        layers = built.layers()
    finally:
        built.close()
    return {
        "engine": name,
        "precision": config.precision,
        "image_size": list(settings.image_size),
        "mib": outputs["engine"].stat().st_size / 2**20,
        "num_quantizable": sum(layer.quantizable for layer in layers),
        "float_layers": [layer.name for layer in float_layers(layers)],
        "layers": [[layer.name, layer.kind, layer.precision] for layer in layers],
    }
