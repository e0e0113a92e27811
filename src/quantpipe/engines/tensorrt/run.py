"""Running a TensorRT plan. TensorRT and CUDA are arguments: stand-ins can take their place."""

from __future__ import annotations

import ctypes
import math
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from quantpipe.engines.batching import run_in_batches
from quantpipe.engines.contract import EngineLayer, Images, LayerTime, Predictions
from quantpipe.engines.engine_file import EngineHeader
from quantpipe.engines.profile import fastest_times
from quantpipe.engines.tensorrt.cuda import Cuda, on_gpu
from quantpipe.engines.tensorrt.layers import engine_layers, layer_names
from quantpipe.engines.tensorrt.spec import TensorRtSettings
from quantpipe.errors import ArtifactError, MachineError
from quantpipe.graph.detections import predictions_from
from quantpipe.graph.onnx_file import DETECTION_OUTPUTS

# By TensorRT's names; its own ``nptype`` in 8.6 fails with today's NumPy.
_DTYPES: Mapping[str, type[np.generic]] = {
    "FLOAT": np.float32,
    "HALF": np.float16,
    "INT8": np.int8,
    "INT32": np.int32,
    "INT64": np.int64,
    "UINT8": np.uint8,
    "BOOL": np.bool_,
}


@dataclass(frozen=True, kw_only=True)
class _Buffer:
    """A tensor's memory on the GPU, and pinned on the host, for the largest batch."""

    device: int
    pinned: int
    dtype: np.dtype[Any]

    def view(self, shape: tuple[int, ...]) -> NDArray[Any]:
        """The beginning of the pinned memory as an array."""
        size = math.prod(shape) * self.dtype.itemsize
        raw = np.ctypeslib.as_array((ctypes.c_uint8 * size).from_address(self.pinned))
        return raw.view(self.dtype).reshape(shape)


@dataclass(kw_only=True)
class _Program:
    """A context set to one batch size, and the CUDA graph of it once there is one."""

    context: Any
    shapes: Mapping[str, tuple[int, ...]]
    has_run: bool = False
    graph: Any = None
    owned: ExitStack = field(default_factory=ExitStack)


class TensorRtEngine:
    """A plan on the first visible GPU: a context per batch size, buffers for the largest.

    A batch size runs as a CUDA graph from its second run on, where TensorRT can be captured.
    """

    def __init__(self, trt: Any, cuda: Cuda, plan: bytes, header: EngineHeader[TensorRtSettings]):
        """Loads a plan.

        Raises:
            ArtifactError: It takes other tensors, or other batches, than its file says.
            MachineError: TensorRT refuses it, or CUDA fails; nothing stays allocated then.
        """
        self._trt, self._cuda = trt, cuda
        self._batch_sizes = header.settings.engine.batch_sizes
        self._image_size = header.settings.image_size
        self._num_classes = header.num_classes
        logger = trt.Logger(trt.Logger.WARNING)
        trt.init_libnvinfer_plugins(logger, "")
        self._runtime = on_gpu(trt.Runtime, logger)
        self._engine = self._runtime.deserialize_cuda_engine(plan)
        if self._engine is None:
            raise MachineError("TensorRT refuses the engine", hint="build it again on this machine")
        self._input, self._outputs = _tensor_names(trt, self._engine, header.num_classes)
        self._require_profiles()
        with ExitStack() as owned:
            self._stream = cuda.stream(owned)
            # The first context takes the first optimization profile by itself.
            self._programs = {size: self._program(size) for size in self._batch_sizes}
            shapes = self._programs[max(self._batch_sizes)].shapes
            self._buffers = {name: self._buffer(owned, name, shapes[name]) for name in shapes}
            for program in self._programs.values():
                self._bind(program)
            self._owned = owned.pop_all()

    def run(self, images: Images) -> Predictions:
        """Returns predictions (B, A, 5 + classes) for images (B, 3, H, W).

        Raises:
            MachineError: TensorRT or CUDA fails.
        """
        return run_in_batches(self._run_batch, images, self._batch_sizes)

    def run_all(self, batches: Iterable[Images]) -> list[Predictions]:
        """Returns the predictions of each batch, one after another: one fills the GPU."""
        return [self.run(images) for images in batches]

    def layers(self) -> Sequence[EngineLayer]:
        """Returns the layers that TensorRT's inspector lists, for the largest batch."""
        return engine_layers(self._information(max(self._batch_sizes)))

    def profile(self, images: Images, num_runs: int) -> Sequence[LayerTime]:
        """Returns the least time of each layer, in a context of its own: counting costs time.

        Raises:
            MachineError: There is no optimization profile for the number of images.
        """
        size = len(images)
        self._require_batch(size)
        names = layer_names(self._information(size))
        # Up to TensorRT 8 an optimization profile serves one context at a time.
        self._release(size)
        program = self._bind(self._program(size))
        program.context.profiler = profiler = _profiler(self._trt)
        runs = []
        for _ in range(num_runs + 1):
            profiler.layers = []
            self._execute(program, images)
            runs.append(profiler.layers)
        return tuple(
            LayerTime(name=names.get(layer.name, layer.name), milliseconds=layer.milliseconds)
            for layer in fastest_times(runs[1:])
        )

    def close(self) -> None:
        """Frees the GPU's memory; once is enough."""
        for size in tuple(self._programs):
            self._release(size)
        self._engine = self._runtime = None
        self._owned.close()

    def _run_batch(self, images: Images) -> Predictions:
        program = self._ready(len(images))
        outputs = self._execute(program, images)
        if not program.has_run:
            # The first run of a context may still allocate and choose, which no graph can hold.
            program.has_run = True
            enqueue = partial(self._enqueue, program)
            program.graph = self._cuda.captured(program.owned, self._stream, enqueue)
        return predictions_from(outputs, self._num_classes)

    def _execute(self, program: _Program, images: Images) -> list[NDArray[Any]]:
        """Returns every output of one batch, in memory of its own."""
        source = self._buffers[self._input]
        staged = source.view(program.shapes[self._input])
        np.copyto(staged, images)
        self._cuda.copy_to_device(source.device, source.pinned, staged.nbytes, self._stream)
        if program.graph is not None:
            self._cuda.call("cudaGraphLaunch", program.graph, self._stream)
        elif not self._enqueue(program):
            raise MachineError("TensorRT could not run the engine")
        views = {name: self._buffers[name].view(program.shapes[name]) for name in self._outputs}
        for name, view in views.items():
            target = self._buffers[name]
            self._cuda.copy_to_host(target.pinned, target.device, view.nbytes, self._stream)
        self._cuda.call("cudaStreamSynchronize", self._stream)
        return [view.copy() for view in views.values()]

    def _enqueue(self, program: _Program) -> bool:
        return bool(program.context.execute_async_v3(self._cuda.handle(self._stream)))

    def _ready(self, size: int) -> _Program:
        """The program of a batch size, made anew after :meth:`profile` took its place."""
        if size not in self._programs:
            self._programs[size] = self._bind(self._program(size))
        return self._programs[size]

    def _release(self, size: int) -> None:
        program = self._programs.pop(size, None)
        if program is not None:
            program.owned.close()

    def _program(self, size: int) -> _Program:
        """Makes a context for a batch size; the shapes of outputs follow from that of the input."""
        context = self._engine.create_execution_context()
        if context is None:
            raise MachineError("no GPU memory for an execution context", hint="lower batch_sizes")
        stream = self._cuda.handle(self._stream)
        index = self._batch_sizes.index(size)
        chosen = context.set_optimization_profile_async(index, stream)
        self._cuda.call("cudaStreamSynchronize", self._stream)
        if not chosen or not context.set_input_shape(self._input, self._input_shape(size)):
            raise MachineError(f"TensorRT does not run batches of {size} with this engine")
        shapes = {
            name: tuple(context.get_tensor_shape(name)) for name in (self._input, *self._outputs)
        }
        for name, shape in shapes.items():
            if min(shape, default=1) < 0:
                raise ArtifactError(
                    f"output '{name}' has a shape that depends on the image: {list(shape)}",
                    hint="export with outputs of fixed size",
                )
        return _Program(context=context, shapes=shapes)

    def _bind(self, program: _Program) -> _Program:
        for name, buffer in self._buffers.items():
            if not program.context.set_tensor_address(name, buffer.device):
                raise MachineError(f"TensorRT does not take the memory of '{name}'")
        missing = program.context.infer_shapes()
        if missing:
            raise MachineError(f"the engine lacks its inputs {', '.join(missing)}")
        return program

    def _buffer(self, owned: ExitStack, name: str, shape: tuple[int, ...]) -> _Buffer:
        word = self._engine.get_tensor_dtype(name).name
        if word not in _DTYPES:
            raise ArtifactError(f"tensor '{name}' is of type {word}")
        dtype = np.dtype(_DTYPES[word])
        size = math.prod(shape) * dtype.itemsize
        return _Buffer(
            device=self._cuda.device_buffer(owned, size),
            pinned=self._cuda.pinned_buffer(owned, size),
            dtype=dtype,
        )

    def _require_profiles(self) -> None:
        """Refuses an engine whose optimization profiles are not those of its batch sizes."""
        fixed = tuple(self._engine.get_tensor_shape(self._input))
        profiles = range(self._engine.num_optimization_profiles if -1 in fixed else 0)
        taken = [
            tuple(tuple(shape) for shape in self._engine.get_tensor_profile_shape(self._input, i))
            for i in profiles
        ] or [(fixed,) * 3]
        if taken != [(self._input_shape(size),) * 3 for size in self._batch_sizes]:
            height, width = self._image_size
            batches = [f"{low[0]} to {high[0]}" for low, _, high in taken]
            raise ArtifactError(
                f"the engine takes batches of {', '.join(batches)}, "
                f"not of {', '.join(map(str, self._batch_sizes))} at {height} x {width} pixels",
                hint="build it again from its ONNX file",
            )

    def _require_batch(self, size: int) -> None:
        if size not in self._batch_sizes:
            raise MachineError(
                f"the engine was built for batches of {', '.join(map(str, self._batch_sizes))}, "
                f"not of {size}",
                hint=f"add {size} to engine.batch_sizes",
            )

    def _information(self, size: int) -> str:
        inspector = self._engine.create_engine_inspector()
        # Without shapes TensorRT tells no types.
        inspector.execution_context = self._ready(size).context
        text: str = inspector.get_engine_information(self._trt.LayerInformationFormat.JSON)
        return text

    def _input_shape(self, batch_size: int) -> tuple[int, ...]:
        return (batch_size, 3, *self._image_size)


def _profiler(trt: Any) -> Any:
    """Returns an ``IProfiler`` that lists the layers of a run as TensorRT reports them."""

    class Layers(trt.IProfiler):  # type: ignore[misc]  # known at run time only
        def __init__(self) -> None:
            trt.IProfiler.__init__(self)
            self.layers: list[LayerTime] = []

        def report_layer_time(self, layer_name: str, ms: float) -> None:
            self.layers.append(LayerTime(name=layer_name, milliseconds=ms))

    return Layers()


def _tensor_names(trt: Any, engine: Any, num_classes: int | None) -> tuple[str, tuple[str, ...]]:
    """Returns the input, and the outputs in the order in which predictions are made of them."""
    names = [engine.get_tensor_name(index) for index in range(engine.num_io_tensors)]
    inputs = [name for name in names if engine.get_tensor_mode(name) == trt.TensorIOMode.INPUT]
    outputs = tuple(name for name in names if name not in inputs)
    wanted = outputs[:1] if num_classes is None else DETECTION_OUTPUTS
    if len(inputs) != 1 or sorted(outputs) != sorted(wanted):
        raise ArtifactError(
            f"the engine has the inputs {', '.join(inputs)} and the outputs {', '.join(outputs)}",
            hint="build it again from its ONNX file",
        )
    return inputs[0], wanted
