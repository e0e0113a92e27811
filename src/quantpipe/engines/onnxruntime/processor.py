"""ONNX Runtime on the processor: the graph it optimized for this machine, kept in one file."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import onnx
import onnxruntime as ort

from quantpipe.engines.batching import run_in_batches
from quantpipe.engines.contract import (
    BuildInputs,
    BuildSettings,
    EngineLayer,
    Images,
    LayerTime,
    Platform,
    Predictions,
)
from quantpipe.engines.engine_file import (
    EngineFile,
    EngineHeader,
    read_engine_file,
    require_platform,
    write_engine_file,
)
from quantpipe.engines.onnxruntime.kernels import ERRORS_ONLY, failures, kernel_times
from quantpipe.engines.onnxruntime.spec import PROCESSOR, ProcessorSettings
from quantpipe.engines.onnxruntime.written_graph import folder_beside, require_room
from quantpipe.errors import ArtifactError, MachineError
from quantpipe.graph.detections import predictions_from
from quantpipe.graph.onnx_file import require_opset
from quantpipe.graph.onnx_source import OnnxSource, read_onnx_source

_PROVIDERS = ["CPUExecutionProvider"]
_BLOB = "optimized.onnx"
_FAILURES = failures(ort)
_OPSET_LIMIT = re.compile(r"official support for domain ai\.onnx is till opset (\d+)")
# A float Conv, ConvTranspose or MaxPool among these could have been an integer one.
_QUANTIZABLE = frozenset(
    {"Conv", "FusedConv", "QLinearConv", "ConvTranspose", "MaxPool", "NhwcMaxPool", "NhwcFusedConv"}
)
_KEEP_TYPE = frozenset(
    {"MaxPool", "NhwcMaxPool", "Transpose", "Reshape", "ReorderInput", "ReorderOutput"}
)
_INTEGER_TYPES = frozenset({onnx.TensorProto.INT8, onnx.TensorProto.UINT8})


def build(
    onnx_path: Path,
    engine_path: Path,
    settings: BuildSettings[ProcessorSettings],
    platform: Platform,
    inputs: BuildInputs,  # noqa: ARG001 - there is none that ONNX Runtime takes
) -> None:
    """Optimizes an ONNX file for this processor and writes the engine file.

    Raises:
        ArtifactError: ONNX Runtime cannot read it.
        OSError: The disk takes no graph of its size.
    """
    source = read_onnx_source(
        onnx_path, image_size=settings.image_size, batch_sizes=settings.engine.batch_sizes
    )
    with folder_beside(engine_path) as folder:
        optimized = folder / _BLOB
        options = _options(settings.engine)
        options.optimized_model_filepath = str(optimized)
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_ALL
        try:
            ort.InferenceSession(source.content, options, providers=_PROVIDERS)
        except _FAILURES as error:
            _require_known_opset(onnx_path, source, str(error))
            require_room(optimized, source.content)
            raise ArtifactError(f"ONNX Runtime: {error}", path=onnx_path) from error
        blob = optimized.read_bytes()
    header = EngineHeader(
        platform=platform,
        settings=settings,
        onnx_sha256=source.sha256,
        num_classes=source.num_classes,
    )
    write_engine_file(engine_path, EngineFile(header=header, blobs={_BLOB: blob}))


def load(engine_path: Path, platform: Platform) -> OnnxRuntimeEngine:
    """Loads an engine file.

    Raises:
        ArtifactError: It is damaged, or not an ONNX Runtime engine.
        MachineError: It was built by another version or for other hardware.
    """
    engine = read_engine_file(engine_path, PROCESSOR)
    require_platform(engine_path, engine.header, platform)
    try:
        return OnnxRuntimeEngine(engine.blobs[_BLOB], engine.header)
    except _FAILURES as error:
        raise MachineError(f"ONNX Runtime cannot load it: {error}", path=engine_path) from error


def _require_known_opset(path: Path, source: OnnxSource, message: str) -> None:
    """Says in a line what ONNX Runtime says at length of an opset that is too new for it."""
    limit = _OPSET_LIMIT.search(message)
    if limit is not None:
        require_opset(path, source.opset, int(limit[1]), f"onnxruntime {ort.__version__}")


class OnnxRuntimeEngine:
    """A session over an optimized graph."""

    def __init__(self, graph: bytes, header: EngineHeader[ProcessorSettings]):
        self._graph, self._header = graph, header
        self._engine = header.settings.engine
        session = _opened(graph, self._engine)
        self._input = session.get_inputs()[0].name
        self._session: ort.InferenceSession | None = session

    def run(self, images: Images) -> Predictions:
        """Returns predictions (B, A, 5 + classes) for images (B, 3, H, W)."""
        return run_in_batches(self._run_batch, images, self._engine.batch_sizes)

    def run_all(self, batches: Iterable[Images]) -> list[Predictions]:
        """Returns the predictions of each batch; a session may run in several threads."""
        if self._engine.mode == "latency":
            return [self.run(images) for images in batches]
        with ThreadPoolExecutor(_num_streams(self._engine)) as streams:
            return list(streams.map(self.run, batches))

    def layers(self) -> Sequence[EngineLayer]:
        """Returns the nodes of the optimized graph; one that reads 8-bit codes is ``int8``."""
        model = onnx.load_model_from_string(self._graph)
        types = _element_types(model.graph)
        return tuple(_layer(node, types) for node in model.graph.node)

    def profile(self, images: Images, num_runs: int) -> Sequence[LayerTime]:
        """Returns the least time of each node."""
        opened = partial(_opened, self._graph, self._engine)
        return kernel_times(opened, self._input, images, num_runs)

    def close(self) -> None:
        """Releases the session."""
        self._session = None

    def _run_batch(self, images: Images) -> Predictions:
        assert self._session is not None, "the engine is closed"
        outputs = self._session.run(None, {self._input: images})
        return predictions_from(outputs, self._header.num_classes)


def _num_streams(engine: ProcessorSettings) -> int:
    return engine.num_streams or engine.num_threads or len(os.sched_getaffinity(0))


def _threads_of_a_stream(engine: ProcessorSettings) -> int:
    if engine.mode == "latency":
        return engine.num_threads
    return max(1, (engine.num_threads or len(os.sched_getaffinity(0))) // _num_streams(engine))


def _opened(
    graph: bytes, engine: ProcessorSettings, *, profile_prefix: str | None = None
) -> ort.InferenceSession:
    """Opens a graph that was optimized when it was built: nothing is left to find in it."""
    options = _options(engine)
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    if profile_prefix is not None:
        options.enable_profiling = True
        options.profile_file_prefix = profile_prefix
    return ort.InferenceSession(graph, options, providers=_PROVIDERS)


def _options(engine: ProcessorSettings) -> ort.SessionOptions:
    options = ort.SessionOptions()
    options.log_severity_level = ERRORS_ONLY
    options.intra_op_num_threads = _threads_of_a_stream(engine)
    return options


def _element_types(graph: onnx.GraphProto) -> Mapping[str, int]:
    values = [*graph.input, *graph.output, *graph.value_info]
    types = {value.name: value.type.tensor_type.elem_type for value in values}
    types.update({tensor.name: tensor.data_type for tensor in graph.initializer})
    for node in graph.node:
        if node.op_type.startswith("QLinear") or node.op_type == "QuantizeLinear":
            types.update(dict.fromkeys(node.output, onnx.TensorProto.INT8))
        elif node.op_type in _KEEP_TYPE:
            types[node.output[0]] = types.get(node.input[0], onnx.TensorProto.UNDEFINED)
    return types


def _layer(node: onnx.NodeProto, types: Mapping[str, int]) -> EngineLayer:
    integer = node.op_type.startswith("QLinear") or types.get(node.input[0]) in _INTEGER_TYPES
    return EngineLayer(
        name=node.name,
        kind=node.op_type,
        precision="int8" if integer else "fp32",
        quantizable=node.op_type in _QUANTIZABLE,
    )
