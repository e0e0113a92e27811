"""Streams, buffers and graphs of CUDA, through cuda-python; the binding is an argument."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

from quantpipe.errors import MachineError


def on_gpu(make: Callable[[Any], Any], logger: Any) -> Any:
    """Makes one of TensorRT's objects that need a GPU.

    Raises:
        MachineError: There is none that CUDA can use.
    """
    try:
        return make(logger)
    except TypeError as error:  # how its bindings tell that there is nothing to bind
        raise MachineError(
            "TensorRT finds no GPU that it can use; its log is above",
            hint="see that nvidia-smi works and that the driver is new enough for this CUDA",
        ) from error


@dataclass(frozen=True, kw_only=True)
class Cuda:
    """CUDA's runtime binding. What its methods make is freed when ``owned`` is closed.

    Attributes:
        runtime: ``cuda.bindings.runtime``; every function returns a tuple (error, *results).
        handle: Returns the address behind one of its objects.
    """

    runtime: Any
    handle: Callable[[Any], int]

    def call(self, function: str, *arguments: Any) -> Any:
        """Calls a function of the runtime and returns its one result, if it has one.

        Raises:
            MachineError: It failed; with its name and CUDA's word for the error.
        """
        error, *results = getattr(self.runtime, function)(*arguments)
        if not self._succeeded(error):
            raise MachineError(f"CUDA: {function} failed with {getattr(error, 'name', error)}")
        return results[0] if results else None

    def stream(self, owned: ExitStack) -> Any:
        """Makes a stream."""
        return self._owned(owned, self.call("cudaStreamCreate"), "cudaStreamDestroy")

    def device_buffer(self, owned: ExitStack, size: int) -> int:
        """Allocates ``size`` bytes on the GPU and returns their address."""
        address: int = self._owned(owned, self.call("cudaMalloc", size), "cudaFree")
        return address

    def pinned_buffer(self, owned: ExitStack, size: int) -> int:
        """Allocates ``size`` bytes that the GPU copies from and to directly."""
        address: int = self._owned(owned, self.call("cudaMallocHost", size), "cudaFreeHost")
        return address

    def copy_to_device(self, target: int, source: int, size: int, stream: Any) -> None:
        """Copies ``size`` bytes from a pinned buffer."""
        kind = self.runtime.cudaMemcpyKind.cudaMemcpyHostToDevice
        self.call("cudaMemcpyAsync", target, source, size, kind, stream)

    def copy_to_host(self, target: int, source: int, size: int, stream: Any) -> None:
        """Copies ``size`` bytes to a pinned buffer."""
        kind = self.runtime.cudaMemcpyKind.cudaMemcpyDeviceToHost
        self.call("cudaMemcpyAsync", target, source, size, kind, stream)

    def captured(self, owned: ExitStack, stream: Any, enqueue: Callable[[], bool]) -> Any | None:
        """Returns, ready for ``cudaGraphLaunch``, what ``enqueue`` puts on a stream.

        Nothing of it runs. None where it cannot be captured: the stream is as it was then.
        """
        mode = self.runtime.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal
        self.call("cudaStreamBeginCapture", stream, mode)
        enqueued = enqueue()
        error, graph = self.runtime.cudaStreamEndCapture(stream)
        if not self._succeeded(error):
            self.runtime.cudaGetLastError()  # or the next call would report it as its own
            return None
        try:
            return self._instantiated(owned, graph) if enqueued else None
        finally:
            self.call("cudaGraphDestroy", graph)

    def _instantiated(self, owned: ExitStack, graph: Any) -> Any | None:
        try:
            error, executable = self.runtime.cudaGraphInstantiate(graph, 0)
        except TypeError:  # the bindings of CUDA 11 take a buffer for a log
            error, executable, *_ = self.runtime.cudaGraphInstantiate(graph, b"", 0)
        if not self._succeeded(error):
            self.runtime.cudaGetLastError()
            return None
        return self._owned(owned, executable, "cudaGraphExecDestroy")

    def _owned(self, owned: ExitStack, made: Any, free: str) -> Any:
        owned.callback(self.call, free, made)
        return made

    def _succeeded(self, error: Any) -> bool:
        return bool(error == self.runtime.cudaError_t.cudaSuccess)
