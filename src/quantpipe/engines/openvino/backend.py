"""OpenVINO on the processor: one compiled network per batch size, kept in one file."""

from __future__ import annotations

import io
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import openvino as ov

from quantpipe.engines.batching import padded, run_in_batches, split_batch
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
from quantpipe.engines.openvino.spec import SPEC, OpenVinoSettings
from quantpipe.engines.profile import fastest_times
from quantpipe.errors import ArtifactError, MachineError
from quantpipe.graph.detections import predictions_from
from quantpipe.graph.onnx_source import OnnxSource, read_onnx_source

_DEVICE = "CPU"
# Explicit in every case: left alone, OpenVINO picks bf16 wherever the processor has it.
_HINTS: Mapping[str, str] = {"fp32": "f32", "half": "bf16"}
_MODES: Mapping[str, str] = {"latency": "LATENCY", "throughput": "THROUGHPUT"}
_QUANTIZABLE = frozenset({"Convolution", "Deconvolution", "MaxPool", "Pooling"})
_PRECISIONS: Mapping[str, str] = {"i8": "int8", "u8": "int8", "f32": "fp32", "f16": "fp16"}


def build(
    onnx_path: Path,
    engine_path: Path,
    settings: BuildSettings[OpenVinoSettings],
    platform: Platform,
    inputs: BuildInputs,  # noqa: ARG001 - there is none that OpenVINO takes
) -> None:
    """Compiles an ONNX file for every batch size and writes the engine file.

    Raises:
        ArtifactError: OpenVINO cannot read or compile it.
    """
    sizes = settings.engine.batch_sizes
    source = read_onnx_source(onnx_path, image_size=settings.image_size, batch_sizes=sizes)
    try:
        blobs = {f"batch{size}": _compiled_blob(source, size, settings) for size in sizes}
    except RuntimeError as error:
        raise ArtifactError(f"OpenVINO: {_first_line(error)}", path=onnx_path) from error
    header = EngineHeader(
        platform=platform,
        settings=settings,
        onnx_sha256=source.sha256,
        num_classes=source.num_classes,
    )
    write_engine_file(engine_path, EngineFile(header=header, blobs=blobs))


def load(engine_path: Path, platform: Platform) -> OpenVinoEngine:
    """Loads an engine file.

    Raises:
        ArtifactError: It is damaged, or not an OpenVINO engine.
        MachineError: It was built by another version or for other hardware.
    """
    engine = read_engine_file(engine_path, SPEC)
    require_platform(engine_path, engine.header, platform)
    sizes = engine.header.settings.engine.batch_sizes
    networks = {size: _imported(engine_path, engine, size) for size in sizes}
    return OpenVinoEngine(networks, engine_path, engine.header.num_classes)


class OpenVinoEngine:
    """Compiled networks of static batch sizes; several requests each in ``throughput`` mode."""

    def __init__(
        self, networks: Mapping[int, ov.CompiledModel], engine_path: Path, num_classes: int | None
    ):
        self._networks = dict(networks)
        self._num_classes = num_classes
        self._path = engine_path
        self._requests = {
            size: network.create_infer_request() for size, network in networks.items()
        }
        self._queues: dict[int, ov.AsyncInferQueue] = {}

    def run(self, images: Images) -> Predictions:
        """Returns predictions (B, A, 5 + classes) for images (B, 3, H, W)."""
        return run_in_batches(self._run_batch, images, tuple(self._requests))

    def run_all(self, batches: Iterable[Images]) -> list[Predictions]:
        """Returns the predictions of each batch; as many are in flight as the library advises."""
        parts: list[list[Predictions]] = []
        for images in batches:
            pieces = list(split_batch(len(images), tuple(self._networks)))
            parts.append([np.empty(0, dtype=np.float32)] * len(pieces))
            for index, (start, stop, size) in enumerate(pieces):
                # Not the caller's memory, which may be gone or changed before its turn comes.
                filled = padded(images[start:stop], size)
                queue = self._queue(size)
                queue.start_async({0: filled}, (parts[-1], index, stop - start))
        for queue in self._queues.values():
            queue.wait_all()
        return [done[0] if len(done) == 1 else np.concatenate(done) for done in parts]

    def layers(self) -> Sequence[EngineLayer]:
        """Returns the layers that compute, of the smallest batch size."""
        runtime = self._networks[min(self._networks)].get_runtime_model()
        layers = [_layer(operation) for operation in runtime.get_ordered_ops()]
        return tuple(layer for layer in layers if layer.kind not in _NO_WORK)

    def profile(self, images: Images, num_runs: int) -> Sequence[LayerTime]:
        """Returns the least time of each layer; counting costs time, so another network counts."""
        engine = read_engine_file(self._path, SPEC)
        network = _imported(self._path, engine, len(images), {"PERF_COUNT": True})
        request, names = network.create_infer_request(), _fused_names(network)
        runs = []
        for _ in range(num_runs + 1):
            request.infer([images], share_inputs=True)
            runs.append(_executed(request, names))
        return fastest_times(runs[1:])

    def close(self) -> None:
        """Releases requests and networks."""
        self._requests.clear()
        self._queues.clear()
        self._networks.clear()

    def _queue(self, batch_size: int) -> ov.AsyncInferQueue:
        if batch_size not in self._queues:
            queue = ov.AsyncInferQueue(self._networks[batch_size], 0)  # 0: as many as it advises
            queue.set_callback(partial(_keep, self._num_classes))
            self._queues[batch_size] = queue
        return self._queues[batch_size]

    def _run_batch(self, images: Images) -> Predictions:
        request = self._requests[len(images)]
        request.infer([images], share_inputs=True)
        return _predictions(request, len(images), self._num_classes)


def _keep(
    num_classes: int | None,
    request: ov.InferRequest,
    where: tuple[list[Predictions], int, int],
) -> None:
    """Copies what a request computed to its place before the request is used again."""
    results, index, num_images = where
    results[index] = _predictions(request, num_images, num_classes)


def _predictions(request: ov.InferRequest, num_images: int, num_classes: int | None) -> Predictions:
    """Copies what a request computed, which owns it and overwrites it in its next call."""
    outputs = [np.array(tensor.data[:num_images]) for tensor in request.output_tensors]
    return predictions_from(outputs, num_classes)


def _imported(
    path: Path,
    engine: EngineFile[OpenVinoSettings],
    batch_size: int,
    more: Mapping[str, object] | None = None,
) -> ov.CompiledModel:
    properties = {**_properties(engine.header.settings), **(more or {})}
    blob = io.BytesIO(engine.blobs[f"batch{batch_size}"])
    try:
        return ov.Core().import_model(blob, _DEVICE, properties)
    except RuntimeError as error:
        raise MachineError(
            f"OpenVINO cannot load it: {_first_line(error)}",
            path=path,
            hint="build the engine again here from its ONNX file",
        ) from error


def _fused_names(network: ov.CompiledModel) -> dict[str, str]:
    """For each executed node the names of the ONNX nodes that are fused into it."""
    operations = network.get_runtime_model().get_ordered_ops()
    return {operation.get_friendly_name(): _original_names(operation) for operation in operations}


def _executed(request: ov.InferRequest, names: Mapping[str, str]) -> list[LayerTime]:
    return [
        LayerTime(
            name=names.get(info.node_name) or info.node_name,
            milliseconds=info.real_time.total_seconds() * 1e3,
        )
        for info in request.profiling_info
    ]


_NO_WORK = frozenset({"Input", "Output", "Const", "Reorder"})


def _compiled_blob(
    source: OnnxSource, batch_size: int, settings: BuildSettings[OpenVinoSettings]
) -> bytes:
    core = ov.Core()
    network = core.read_model(source.content)
    network.reshape({source.input_name: [batch_size, 3, *settings.image_size]})
    compiled = core.compile_model(network, _DEVICE, _properties(settings))
    return bytes(compiled.export_model().getvalue())


def _properties(settings: BuildSettings[OpenVinoSettings]) -> dict[str, object]:
    engine = settings.engine
    properties: dict[str, object] = {
        "INFERENCE_PRECISION_HINT": _HINTS[settings.float_precision],
        "PERFORMANCE_HINT": _MODES[engine.mode],
    }
    if engine.num_streams and engine.mode == "throughput":
        properties["NUM_STREAMS"] = engine.num_streams
    if engine.num_threads:
        properties["INFERENCE_NUM_THREADS"] = engine.num_threads
    return properties


def _layer(operation: ov.Node) -> EngineLayer:
    info = operation.get_rt_info()
    kind = str(info["layerType"].astype(str))
    precision = str(info["runtimePrecision"].astype(str))
    return EngineLayer(
        name=_original_names(operation) or operation.get_friendly_name(),
        kind=kind,
        precision=_PRECISIONS.get(precision, precision),
        quantizable=kind in _QUANTIZABLE,
    )


def _original_names(operation: ov.Node) -> str:
    return str(operation.get_rt_info()["originalLayersNames"].astype(str))


def _first_line(error: RuntimeError) -> str:
    """Returns the line of OpenVINO's message that says what is wrong, not where in its source."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    telling = [line for line in lines if not line.startswith(("Exception from", "Check '"))]
    return (telling or lines or ["unknown error"])[0]
