"""From a network to an engine: the graph that an engine takes, and how it is built."""

from __future__ import annotations

from pathlib import Path

import onnx

from quantpipe.core.stage import Context
from quantpipe.engines.engine import BuildSettings, FloatPrecision, Precision
from quantpipe.engines.onnxruntime.providers import PROVIDERS
from quantpipe.engines.tensorrt.calibration_cache import read_calibration_cache
from quantpipe.engines.tensorrt.timing_cache import TimingCache
from quantpipe.engines.tensorrt.version import installed_tensorrt
from quantpipe.errors import ArtifactError, MachineError
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
    context: Context,
    *,
    image_size: int,
    calibration_cache: str | None = None,
    batch_sizes: tuple[int, ...] | None = None,
) -> BuildSettings:
    """How an engine is built; for the batch sizes of the settings unless others are given."""
    timings = TimingCache(folder=context.memo / "kernel_timings", warn=context.progress.note)
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
        builder=engine.builder,
        timing_cache=timings,
    )


def ranges_beside(graph_path: Path, cache_path: Path) -> str:
    """The text of a calibration cache that was made for a float graph.

    Raises:
        ArtifactError: The graph has ranges itself, or lacks a tensor that the cache names: an
            engine would leave out such a range without a word.
    """
    text = cache_path.read_text(encoding="utf-8")
    ranges = read_calibration_cache(cache_path).amax
    graph = read_graph(graph_path).graph
    if any(node.op_type == "QuantizeLinear" for node in graph.node):
        raise ArtifactError(
            "has Q/DQ nodes, beside which a calibration cache is not read",
            path=graph_path,
            hint="wire a float graph, as export.float.onnx, or leave out the cache",
        )
    tensors = {value.name for value in graph.input}
    tensors |= {name for node in graph.node for name in node.output}
    unknown = [name for name in ranges if name not in tensors]
    if unknown:
        raise ArtifactError(
            f"{len(unknown)} of its {len(ranges)} ranges, as of '{unknown[0]}', are of tensors "
            f"that {graph_path.name} lacks",
            path=cache_path,
            hint="wire graph and cache of the same network",
        )
    return text


def typed_source(
    engine: str,
    precision: Precision,
    float_precision: FloatPrecision,
    source: Path,
    half_path: Path,
    *,
    calibration_cache: bool = False,
) -> Path:
    """The graph to build from: in FP16, at ``half_path``, where types have to be in the graph."""
    floats = float_precision if precision == "int8" else precision
    if not _takes_types_from_graph(engine, floats, calibration_cache=calibration_cache):
        return source
    write_graph(half_path, to_half(read_graph(source)))
    return half_path


def _takes_types_from_graph(engine: str, floats: Precision, *, calibration_cache: bool) -> bool:
    """Whether half precision has to be written into the graph for this engine.

    That is so from TensorRT 10.12 on, and with ONNX Runtime on a GPU.
    """
    if floats != "half":
        return False
    if engine != "tensorrt":
        return engine in PROVIDERS
    version = installed_tensorrt()
    if version is None:
        raise MachineError(
            "TensorRT is here, but not as an installed distribution that tells its version",
            hint="pip install 'quantpipe[tensorrt]'",
        )
    return version.takes_types_from_graph(calibration_cache=calibration_cache)
