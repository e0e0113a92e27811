"""Running a TensorRT plan. TensorRT and CUDA are arguments: stand-ins can take their place."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from quantpipe.engines.batching import run_in_batches
from quantpipe.engines.engine import EngineLayer, Images, Predictions
from quantpipe.engines.profile import LayerTime, fastest_times
from quantpipe.errors import MachineError

_FLOAT_BYTES = 4
_QUANTIZABLE = ("conv", "pool")  # also within CaskConvolution, Deconvolution, TiledPooling, ...
_PRECISIONS: Mapping[str, str] = {
    "int8": "int8",
    "half": "f16",
    "fp16": "f16",
    "bf16": "bf16",
    "float": "f32",
    "fp32": "f32",
}


@dataclass(frozen=True, kw_only=True)
class Cuda:
    """CUDA's runtime binding.

    Attributes:
        runtime: ``cuda.bindings.runtime``; every function returns a tuple (error, *results).
        handle: Returns the address behind one of its objects.
    """

    runtime: Any
    handle: Callable[[Any], int]


class TensorRtEngine:
    """A plan on the first visible GPU: a context per batch size, buffers for the largest."""

    def __init__(
        self, trt: Any, cuda: Cuda, plan: bytes, batch_sizes: Sequence[int], image_size: int
    ):
        """Loads a plan.

        Raises:
            MachineError: TensorRT refuses it, or CUDA fails.
        """
        self._trt, self._cuda = trt, cuda
        self._batch_sizes, self._image_size = tuple(batch_sizes), image_size
        self._runtime = trt.Runtime(trt.Logger(trt.Logger.WARNING))
        self._engine = self._runtime.deserialize_cuda_engine(plan)
        if self._engine is None:
            raise MachineError("TensorRT refuses the engine", hint="build it again on this machine")
        self._input, self._output = _tensor_names(trt, self._engine)
        self._stream = self._call("cudaStreamCreate")
        self._contexts = {size: self._context(size) for size in self._batch_sizes}
        largest = self._contexts[max(self._batch_sizes)]
        self._row = tuple(largest.get_tensor_shape(self._output))[1:]
        self._buffers: tuple[int, ...] = (
            self._call("cudaMalloc", _num_bytes(self._input_shape(max(self._batch_sizes)))),
            self._call("cudaMalloc", _num_bytes((max(self._batch_sizes), *self._row))),
        )
        for context in self._contexts.values():
            context.set_tensor_address(self._input, self._buffers[0])
            context.set_tensor_address(self._output, self._buffers[1])

    def run(self, images: Images) -> Predictions:
        """Returns predictions (B, A, 5 + classes) for images (B, 3, S, S)."""
        return run_in_batches(self._run_batch, images, self._batch_sizes)

    def run_all(self, batches: Iterable[Images]) -> list[Predictions]:
        """Returns the predictions of each batch, one after another: one fills the GPU."""
        return [self.run(images) for images in batches]

    def layers(self) -> Sequence[EngineLayer]:
        """Returns the layers that TensorRT's inspector lists."""
        inspector = self._engine.create_engine_inspector()
        text = inspector.get_engine_information(self._trt.LayerInformationFormat.JSON)
        return tuple(_layer(entry) for entry in json.loads(text)["Layers"])

    def profile(self, images: Images, num_runs: int) -> Sequence[LayerTime]:
        """Returns the least time of each layer, in a context of its own: counting costs time."""
        context = self._context(len(images))
        context.set_tensor_address(self._input, self._buffers[0])
        context.set_tensor_address(self._output, self._buffers[1])
        context.profiler = profiler = _profiler(self._trt)
        runs = []
        for _ in range(num_runs + 1):
            profiler.layers = []
            self._execute(context, images)
            runs.append(profiler.layers)
        return fastest_times(runs[1:])

    def close(self) -> None:
        """Frees the GPU's memory."""
        self._contexts.clear()
        self._engine = self._runtime = None
        for address in self._buffers:
            self._call("cudaFree", address)
        self._call("cudaStreamDestroy", self._stream)
        self._buffers = ()

    def _run_batch(self, images: Images) -> Predictions:
        return self._execute(self._contexts[len(images)], images)

    def _execute(self, context: Any, images: Images) -> Predictions:
        output = np.empty((len(images), *self._row), dtype=np.float32)
        kinds = self._cuda.runtime.cudaMemcpyKind
        device_in, device_out = self._buffers
        self._copy(device_in, images.ctypes.data, images.nbytes, kinds.cudaMemcpyHostToDevice)
        if not context.execute_async_v3(self._cuda.handle(self._stream)):
            raise MachineError("TensorRT could not run the engine")
        self._copy(output.ctypes.data, device_out, output.nbytes, kinds.cudaMemcpyDeviceToHost)
        self._call("cudaStreamSynchronize", self._stream)
        return output

    def _context(self, batch_size: int) -> Any:
        context = self._engine.create_execution_context()
        if context is None:
            raise MachineError("no GPU memory for an execution context", hint="lower batch_sizes")
        if len(self._batch_sizes) > 1:
            index = self._batch_sizes.index(batch_size)
            context.set_optimization_profile_async(index, self._cuda.handle(self._stream))
            self._call("cudaStreamSynchronize", self._stream)
        if not context.set_input_shape(self._input, self._input_shape(batch_size)):
            raise MachineError(f"the engine does not take batches of {batch_size}")
        return context

    def _input_shape(self, batch_size: int) -> tuple[int, ...]:
        return (batch_size, 3, self._image_size, self._image_size)

    def _copy(self, target: int, source: int, size: int, kind: Any) -> None:
        self._call("cudaMemcpyAsync", target, source, size, kind, self._stream)

    def _call(self, function: str, *arguments: Any) -> Any:
        error, *results = getattr(self._cuda.runtime, function)(*arguments)
        if error != self._cuda.runtime.cudaError_t.cudaSuccess:
            raise MachineError(f"CUDA: {function} failed with {error}")
        return results[0] if results else None


def _profiler(trt: Any) -> Any:
    """Returns an ``IProfiler`` that lists the layers of a run as TensorRT reports them."""

    class Layers(trt.IProfiler):  # type: ignore[misc]  # known at run time only
        def __init__(self) -> None:
            trt.IProfiler.__init__(self)
            self.layers: list[LayerTime] = []

        def report_layer_time(self, layer_name: str, ms: float) -> None:
            self.layers.append(LayerTime(name=layer_name, milliseconds=ms))

    return Layers()


def _tensor_names(trt: Any, engine: Any) -> tuple[str, str]:
    names = [engine.get_tensor_name(index) for index in range(engine.num_io_tensors)]
    inputs = [name for name in names if engine.get_tensor_mode(name) == trt.TensorIOMode.INPUT]
    outputs = [name for name in names if name not in inputs]
    assert len(inputs) == len(outputs) == 1
    return inputs[0], outputs[0]


def _num_bytes(shape: Sequence[int]) -> int:
    return math.prod(shape) * _FLOAT_BYTES


def _layer(entry: Mapping[str, Any]) -> EngineLayer:
    kind = str(entry.get("ParameterType") or entry.get("LayerType"))
    words = f"{entry.get('ParameterType', '')} {entry.get('LayerType', '')}".lower()
    inputs = entry.get("Inputs") or [{}]
    return EngineLayer(
        name=str(entry["Name"]),
        kind=kind,
        precision=_precision(inputs[0]),
        quantizable=any(word in words for word in _QUANTIZABLE),
    )


def _precision(tensor: Mapping[str, Any]) -> str:
    """Reads a tensor's type: ``DataType`` in 11, the words of ``Format/Datatype`` before."""
    text = str(tensor.get("DataType") or tensor.get("Format/Datatype") or "unknown")
    for word, precision in _PRECISIONS.items():
        if word in text.lower():
            return precision
    return text
