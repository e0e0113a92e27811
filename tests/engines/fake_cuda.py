"""A stand-in for ``cuda.bindings.runtime`` over host memory, with what was not freed."""

from __future__ import annotations

import ctypes
import enum
from collections.abc import Callable
from typing import Any

STREAM_HANDLE = 77


class FakeCuda:
    """Every call returns a tuple (error, *results), as in the binding.

    Args:
        memory: Bytes that the GPU has.
        captures: Whether streams can be captured.
        old_graphs: Whether graphs are instantiated as in the bindings of CUDA 11.
    """

    class cudaError_t(enum.IntEnum):  # noqa: N801 - the binding's name
        cudaSuccess = 0  # noqa: N815
        cudaErrorMemoryAllocation = 2  # noqa: N815
        cudaErrorStreamCaptureUnsupported = 900  # noqa: N815
        cudaErrorStreamCaptureInvalidated = 901  # noqa: N815

    class cudaMemcpyKind(enum.IntEnum):  # noqa: N801
        cudaMemcpyHostToDevice = 1  # noqa: N815
        cudaMemcpyDeviceToHost = 2  # noqa: N815

    class cudaStreamCaptureMode(enum.IntEnum):  # noqa: N801
        cudaStreamCaptureModeThreadLocal = 1  # noqa: N815

    def __init__(
        self, *, memory: int = 1 << 30, captures: bool = True, old_graphs: bool = False
    ) -> None:
        self.device: dict[int, Any] = {}
        self.pinned: dict[int, Any] = {}
        self.streams, self.graphs, self.executables = 0, 0, 0
        self.launches, self.enqueued = 0, 0
        self._left, self._captures, self._old = memory, captures, old_graphs
        self._capturing: list[Callable[[], None]] | None = None
        self._last_error = self.cudaError_t.cudaSuccess

    @property
    def held(self) -> dict[str, int]:
        """What was made and not freed."""
        counts = {
            "device": len(self.device),
            "pinned": len(self.pinned),
            "streams": self.streams,
            "graphs": self.graphs,
            "executables": self.executables,
        }
        return {name: count for name, count in counts.items() if count}

    def enqueue(self, work: Callable[[], None]) -> bool:
        """What a library puts on the stream: done at once, or kept while a graph is captured."""
        if self._capturing is None:
            self.enqueued += 1
            work()
            return True
        if not self._captures:
            self._last_error = self.cudaError_t.cudaErrorStreamCaptureUnsupported
            return False
        self._capturing.append(work)
        return True

    def cudaGetLastError(self) -> Any:  # noqa: N802
        error, self._last_error = self._last_error, self.cudaError_t.cudaSuccess
        return (error,)

    def cudaMalloc(self, size: Any) -> Any:  # noqa: N802
        if size > self._left:
            return (self.cudaError_t.cudaErrorMemoryAllocation, None)
        self._left -= size
        return self._allocate(self.device, size)

    def cudaMallocHost(self, size: Any) -> Any:  # noqa: N802
        return self._allocate(self.pinned, size)

    def cudaFree(self, address: Any) -> Any:  # noqa: N802
        del self.device[address]
        return self._done()

    def cudaFreeHost(self, address: Any) -> Any:  # noqa: N802
        del self.pinned[address]
        return self._done()

    def cudaStreamCreate(self) -> Any:  # noqa: N802
        self.streams += 1
        return self._done("stream")

    def cudaStreamDestroy(self, stream: Any) -> Any:  # noqa: N802
        self.streams -= 1
        return self._done()

    def cudaStreamSynchronize(self, stream: Any) -> Any:  # noqa: N802
        assert stream == "stream"
        assert self._capturing is None
        return self._done()

    def cudaMemcpyAsync(self, target: int, source: int, size: int, kind: Any, stream: str) -> Any:  # noqa: N802
        to_device = kind == self.cudaMemcpyKind.cudaMemcpyHostToDevice
        on_device, on_host = (target, source) if to_device else (source, target)
        assert len(self.device[on_device]) >= size
        assert len(self.pinned[on_host]) >= size
        ctypes.memmove(target, source, size)
        return self._done()

    def cudaStreamBeginCapture(self, stream: Any, mode: Any) -> Any:  # noqa: N802
        assert mode is self.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal
        assert self._capturing is None
        self._capturing = []
        return self._done()

    def cudaStreamEndCapture(self, stream: Any) -> Any:  # noqa: N802
        works, self._capturing = self._capturing, None
        if self._last_error != self.cudaError_t.cudaSuccess:
            return (self.cudaError_t.cudaErrorStreamCaptureInvalidated, None)
        self.graphs += 1
        return self._done(works)

    def cudaGraphInstantiate(self, graph: Any, *options: Any) -> Any:  # noqa: N802
        if options != ((b"", 0) if self._old else (0,)):
            raise TypeError("cudaGraphInstantiate() takes other arguments")
        self.executables += 1
        return (*self._done(list(graph)), *([None] if self._old else []))

    def cudaGraphDestroy(self, graph: Any) -> Any:  # noqa: N802
        self.graphs -= 1
        return self._done()

    def cudaGraphExecDestroy(self, executable: Any) -> Any:  # noqa: N802
        self.executables -= 1
        return self._done()

    def cudaGraphLaunch(self, executable: Any, stream: Any) -> Any:  # noqa: N802
        self.launches += 1
        for work in executable:
            work()
        return self._done()

    def _allocate(self, kept: dict[int, Any], size: int) -> Any:
        buffer = ctypes.create_string_buffer(size)
        kept[ctypes.addressof(buffer)] = buffer
        return self._done(ctypes.addressof(buffer))

    def _done(self, *results: Any) -> Any:
        # CUDA reports an old error with the next call; whoever leaves one behind is found out.
        assert self._last_error == self.cudaError_t.cudaSuccess
        return (self.cudaError_t.cudaSuccess, *results)
