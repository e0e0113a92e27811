"""OpenVINO on the processor: one compiled network per batch size, kept in one file."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import openvino as ov

from quantpipe.engines.batching import run_in_batches
from quantpipe.engines.engine import (
    BuildSettings,
    EngineLayer,
    Images,
    Precision,
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
from quantpipe.engines.onnx_source import OnnxSource, read_onnx_source
from quantpipe.errors import ArtifactError, MachineError

_DEVICE = "CPU"
# Explicit in every case: left alone, OpenVINO picks bf16 wherever the processor has it.
_HINTS: Mapping[str, str] = {"f32": "f32", "half": "bf16"}
_QUANTIZABLE = frozenset({"Convolution", "Deconvolution", "MaxPool", "Pooling"})
_PRECISIONS: Mapping[str, str] = {"i8": "int8", "u8": "int8"}


def build(onnx_path: Path, engine_path: Path, settings: BuildSettings) -> None:
    """Compiles an ONNX file for every batch size and writes the engine file.

    Raises:
        ArtifactError: OpenVINO cannot read or compile it.
    """
    source = read_onnx_source(
        onnx_path, image_size=settings.image_size, batch_sizes=settings.batch_sizes
    )
    place = identity("openvino")
    try:
        blobs = {
            f"batch{size}": _compiled_blob(source, size, settings) for size in settings.batch_sizes
        }
    except RuntimeError as error:
        raise ArtifactError(f"OpenVINO: {_first_line(error)}", path=onnx_path) from error
    header = header_for("openvino", place, settings, source.sha256)
    write_engine_file(engine_path, EngineFile(header=header, blobs=blobs))


def load(engine_path: Path) -> OpenVinoEngine:
    """Loads an engine file.

    Raises:
        ArtifactError: It is damaged, or not an OpenVINO engine.
        MachineError: It was built by another version or for other hardware.
    """
    engine = read_engine_file(engine_path, "openvino")
    require_place(engine_path, engine.header, identity("openvino"))
    core = ov.Core()
    compile_settings = _properties(engine.header)
    try:
        networks = {
            size: core.import_model(
                io.BytesIO(engine.blobs[f"batch{size}"]), _DEVICE, compile_settings
            )
            for size in engine.header.batch_sizes
        }
    except RuntimeError as error:
        raise MachineError(
            f"OpenVINO cannot load it: {_first_line(error)}",
            path=engine_path,
            hint="build the engine again here from its ONNX file",
        ) from error
    return OpenVinoEngine(networks)


class OpenVinoEngine:
    """Compiled networks of static batch sizes, each with one request."""

    def __init__(self, networks: Mapping[int, ov.CompiledModel]):
        self._networks = dict(networks)
        self._requests = {
            size: network.create_infer_request() for size, network in networks.items()
        }

    def run(self, images: Images) -> Predictions:
        """Returns predictions (B, A, 5 + classes) for images (B, 3, S, S)."""
        return run_in_batches(self._run_batch, images, tuple(self._requests))

    def layers(self) -> Sequence[EngineLayer]:
        """Returns the layers that compute, of the smallest batch size."""
        runtime = self._networks[min(self._networks)].get_runtime_model()
        layers = [_layer(operation) for operation in runtime.get_ordered_ops()]
        return tuple(layer for layer in layers if layer.kind not in _NO_WORK)

    def close(self) -> None:
        """Releases requests and networks."""
        self._requests.clear()
        self._networks.clear()

    def _run_batch(self, images: Images) -> Predictions:
        request = self._requests[len(images)]
        request.infer([images], share_inputs=True)
        # The request owns its output and overwrites it in the next call.
        return np.array(request.get_output_tensor(0).data)


_NO_WORK = frozenset({"Input", "Output", "Const", "Reorder"})


def _compiled_blob(source: OnnxSource, batch_size: int, settings: BuildSettings) -> bytes:
    core = ov.Core()
    network = core.read_model(source.content)
    shape = [batch_size, 3, settings.image_size, settings.image_size]
    network.reshape({source.input_name: shape})
    compiled = core.compile_model(network, _DEVICE, _properties(settings))
    return bytes(compiled.export_model().getvalue())


def _properties(settings: BuildSettings | EngineHeader) -> dict[str, object]:
    precision: Precision | str = settings.precision
    floats = settings.float_precision if precision == "int8" else precision
    properties: dict[str, object] = {
        "INFERENCE_PRECISION_HINT": _HINTS[floats],
        "PERFORMANCE_HINT": "LATENCY",
    }
    if settings.num_threads:
        properties["INFERENCE_NUM_THREADS"] = settings.num_threads
    return properties


def _layer(operation: ov.Node) -> EngineLayer:
    info = operation.get_rt_info()
    kind = str(info["layerType"].astype(str))
    precision = str(info["runtimePrecision"].astype(str))
    names = str(info["originalLayersNames"].astype(str))
    return EngineLayer(
        name=names or operation.get_friendly_name(),
        kind=kind,
        precision=_PRECISIONS.get(precision, precision),
        quantizable=kind in _QUANTIZABLE,
    )


def _first_line(error: RuntimeError) -> str:
    """Returns the line of OpenVINO's message that says what is wrong, not where in its source."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    telling = [line for line in lines if not line.startswith(("Exception from", "Check '"))]
    return (telling or lines or ["unknown error"])[0]
