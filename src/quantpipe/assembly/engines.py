"""From a network to an engine: the graph that an engine takes, and how it is built."""

from __future__ import annotations

from importlib.metadata import version
from pathlib import Path

import onnx

from quantpipe.engines.engine import BuildSettings, FloatPrecision, Precision
from quantpipe.engines.onnxruntime_providers import PROVIDERS
from quantpipe.engines.tensorrt_version import tensorrt_version
from quantpipe.export.half import to_half
from quantpipe.export.onnx_graph import read_graph, write_graph
from quantpipe.export.qdq import insert_qdq
from quantpipe.export.simplify import simplify
from quantpipe.quantization.precision_plan import PrecisionPlan
from quantpipe.quantization.scale_cache import ScaleCache
from quantpipe.settings.engine import EngineSettings


def engine_graph(
    graph: onnx.ModelProto,
    scales: ScaleCache | None,
    plan: PrecisionPlan | None,
    *,
    target: str,
    half: bool,
    simplified: bool,
) -> onnx.ModelProto:
    """A traced float graph with the Q/DQ pairs of its ranges, in FP16 where asked for."""
    if scales is not None:
        graph = insert_qdq(graph, scales, plan, target)
    if half:
        graph = to_half(graph)
    return simplify(graph) if simplified else graph


def build_settings(
    engine: EngineSettings,
    precision: Precision,
    *,
    image_size: int,
    calibration_cache: str | None = None,
    batch_sizes: tuple[int, ...] | None = None,
) -> BuildSettings:
    """How an engine is built; for the batch sizes of the settings unless others are given."""
    return BuildSettings(
        precision=precision,
        float_precision=engine.float_precision,
        image_size=image_size,
        batch_sizes=engine.batch_sizes if batch_sizes is None else batch_sizes,
        mode=engine.mode,
        num_streams=engine.num_streams,
        num_threads=engine.num_threads,
        workspace_mib=engine.workspace_mib,
        optimization_level=engine.optimization_level,
        calibration_cache=calibration_cache,
    )


def typed_source(
    engine: str,
    precision: Precision,
    float_precision: FloatPrecision,
    source: Path,
    half_path: Path,
) -> Path:
    """The graph to build from: in FP16, at ``half_path``, where types have to be in the graph."""
    floats = float_precision if precision == "int8" else precision
    if not _takes_types_from_graph(engine, floats):
        return source
    write_graph(half_path, to_half(read_graph(source)))
    return half_path


def _takes_types_from_graph(engine: str, floats: Precision) -> bool:
    """Whether half precision has to be written into the graph for this engine.

    That is so from TensorRT 10.12 on, and with ONNX Runtime on a GPU.
    """
    if floats != "half":
        return False
    if engine != "tensorrt":
        return engine in PROVIDERS
    return tensorrt_version(version("tensorrt")).types_in_graph
