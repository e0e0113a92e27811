"""ONNX Runtime on the processor: the graph it optimized for this machine, kept in one file."""

from __future__ import annotations

import json
import os
import re
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import onnx
import onnxruntime as ort

from quantpipe.engines.batching import run_in_batches
from quantpipe.engines.engine import (
    BuildSettings,
    EngineLayer,
    Images,
    Predictions,
    identity,
)
from quantpipe.engines.engine_file import (
    EngineFile,
    EngineHeader,
    header_for,
    read_engine_file,
    require_place,
    write_engine_file,
)
from quantpipe.engines.profile import LayerTime, fastest_times
from quantpipe.errors import ArtifactError, MachineError
from quantpipe.graph.detections import predictions_from
from quantpipe.graph.onnx_file import require_opset
from quantpipe.graph.onnx_source import OnnxSource, read_onnx_source

_PROVIDERS = ["CPUExecutionProvider"]
_BLOB = "optimized.onnx"
_ERRORS_ONLY = 3
_OPSET_LIMIT = re.compile(r"official support for domain ai\.onnx is till opset (\d+)")
# A float Conv, ConvTranspose or MaxPool among these could have been an integer one.
_QUANTIZABLE = frozenset(
    {"Conv", "FusedConv", "QLinearConv", "ConvTranspose", "MaxPool", "NhwcMaxPool", "NhwcFusedConv"}
)
_KEEP_TYPE = frozenset(
    {"MaxPool", "NhwcMaxPool", "Transpose", "Reshape", "ReorderInput", "ReorderOutput"}
)
_INTEGER_TYPES = frozenset({onnx.TensorProto.INT8, onnx.TensorProto.UINT8})


def build(onnx_path: Path, engine_path: Path, settings: BuildSettings) -> None:
    """Optimizes an ONNX file for this processor and writes the engine file.

    Raises:
        ArtifactError: ONNX Runtime cannot read it.
    """
    source = read_onnx_source(
        onnx_path, image_size=settings.image_size, batch_sizes=settings.batch_sizes
    )
    place = identity("onnxruntime")
    with tempfile.TemporaryDirectory() as folder:
        optimized = Path(folder) / _BLOB
        options = _options(settings)
        options.optimized_model_filepath = str(optimized)
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_ALL
        try:
            ort.InferenceSession(source.content, options, providers=_PROVIDERS)
        except _FAILURES as error:
            _require_known_opset(onnx_path, source, str(error))
            raise ArtifactError(f"ONNX Runtime: {error}", path=onnx_path) from error
        blob = optimized.read_bytes()
    header = header_for("onnxruntime", place, settings, source.sha256, source.num_classes)
    write_engine_file(engine_path, EngineFile(header=header, blobs={_BLOB: blob}))


def load(engine_path: Path) -> OnnxRuntimeEngine:
    """Loads an engine file.

    Raises:
        ArtifactError: It is damaged, or not an ONNX Runtime engine.
        MachineError: It was built by another version or for other hardware.
    """
    engine = read_engine_file(engine_path, "onnxruntime")
    require_place(engine_path, engine.header, identity("onnxruntime"))
    options = _loading_options(engine.header)
    try:
        session = ort.InferenceSession(engine.blobs[_BLOB], options, providers=_PROVIDERS)
    except _FAILURES as error:
        raise MachineError(f"ONNX Runtime cannot load it: {error}", path=engine_path) from error
    return OnnxRuntimeEngine(session, engine.blobs[_BLOB], engine.header)


def _require_known_opset(path: Path, source: OnnxSource, message: str) -> None:
    """Says in a line what ONNX Runtime says at length of an opset that is too new for it."""
    limit = _OPSET_LIMIT.search(message)
    if limit is not None:
        require_opset(path, source.opset, int(limit[1]), f"onnxruntime {ort.__version__}")


class OnnxRuntimeEngine:
    """A session over an optimized graph."""

    def __init__(self, session: ort.InferenceSession, graph: bytes, header: EngineHeader):
        self._session: ort.InferenceSession | None = session
        self._input = session.get_inputs()[0].name
        self._graph = graph
        self._header = header

    def run(self, images: Images) -> Predictions:
        """Returns predictions (B, A, 5 + classes) for images (B, 3, S, S)."""
        return run_in_batches(self._run_batch, images, self._header.batch_sizes)

    def run_all(self, batches: Iterable[Images]) -> list[Predictions]:
        """Returns the predictions of each batch; a session may run in several threads."""
        if self._header.mode == "latency":
            return [self.run(images) for images in batches]
        with ThreadPoolExecutor(_num_streams(self._header)) as streams:
            return list(streams.map(self.run, batches))

    def layers(self) -> Sequence[EngineLayer]:
        """Returns the nodes of the optimized graph; one that reads 8-bit codes is ``int8``."""
        model = onnx.load_model_from_string(self._graph)
        types = _element_types(model.graph)
        return tuple(_layer(node, types) for node in model.graph.node)

    def profile(self, images: Images, num_runs: int) -> Sequence[LayerTime]:
        """Returns the least time of each node; a session counts from its start or not at all."""
        options = _loading_options(self._header)
        options.enable_profiling = True
        with tempfile.TemporaryDirectory() as folder:
            options.profile_file_prefix = str(Path(folder) / "profile")
            session = ort.InferenceSession(self._graph, options, providers=_PROVIDERS)
            for _ in range(num_runs + 1):
                session.run(None, {self._input: images})
            events = json.loads(Path(session.end_profiling()).read_bytes())
        layers = [_layer_time(event) for event in events if _is_kernel(event)]
        size = len(layers) // (num_runs + 1)
        return fastest_times([layers[at : at + size] for at in range(size, len(layers), size)])

    def close(self) -> None:
        """Releases the session."""
        self._session = None

    def _run_batch(self, images: Images) -> Predictions:
        assert self._session is not None, "the engine is closed"
        outputs = self._session.run(None, {self._input: images})
        return predictions_from(outputs, self._header.num_classes)


# The binding raises these classes of its own, which share no base but Exception.
_FAILURES: tuple[type[Exception], ...] = tuple(
    getattr(ort.capi.onnxruntime_pybind11_state, name)
    for name in (
        "Fail",
        "InvalidArgument",
        "InvalidGraph",
        "InvalidProtobuf",
        "NotImplemented",
        "RuntimeException",
    )
)


_KERNEL = "_kernel_time"


def _is_kernel(event: Mapping[str, Any]) -> bool:
    return event.get("cat") == "Node" and str(event["name"]).endswith(_KERNEL)


def _layer_time(event: Mapping[str, Any]) -> LayerTime:
    """Events are in microseconds."""
    name = str(event["name"]).removesuffix(_KERNEL)
    return LayerTime(name=name, milliseconds=float(event["dur"]) / 1e3)


def _num_streams(settings: BuildSettings | EngineHeader) -> int:
    return settings.num_streams or settings.num_threads or len(os.sched_getaffinity(0))


def _threads_of_a_stream(settings: BuildSettings | EngineHeader) -> int:
    if settings.mode == "latency":
        return settings.num_threads
    return max(1, (settings.num_threads or len(os.sched_getaffinity(0))) // _num_streams(settings))


def _loading_options(header: EngineHeader) -> ort.SessionOptions:
    options = _options(header)
    # Optimized once, when built; a second pass has nothing left to find.
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    return options


def _options(settings: BuildSettings | EngineHeader) -> ort.SessionOptions:
    options = ort.SessionOptions()
    options.log_severity_level = _ERRORS_ONLY
    options.intra_op_num_threads = _threads_of_a_stream(settings)
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
        precision="int8" if integer else "f32",
        quantizable=node.op_type in _QUANTIZABLE,
    )
