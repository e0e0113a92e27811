"""Stand-ins for TensorRT and CUDA: each version has what it has, anything else fails.

A fake engine computes ``function(images)``, so that copies, shapes and addresses are really tested.
"""

from __future__ import annotations

import ctypes
import enum
import json
from types import SimpleNamespace
from typing import Any

import numpy as np

ANCHORS, COLUMNS = 4, 6
LAYER_MILLISECONDS = {"stem + relu": 0.5, "up || pool": 0.25, "sigmoid": 0.125}


def function(images: np.ndarray) -> np.ndarray:
    """(B, 3, S, S) -> (B, 4, 6); every value depends on its own image."""
    base = images.mean(axis=(1, 2, 3), dtype=np.float64)[:, None, None]
    rows: np.ndarray = (base + np.arange(ANCHORS * COLUMNS).reshape(1, ANCHORS, COLUMNS)).astype(
        np.float32
    )
    return rows


def _names(name: str, values: dict[str, int]) -> Any:
    factory: Any = enum.IntEnum
    return factory(name, values)


class _Strict:
    """Setting an attribute that the version does not list fails, as in a compiled binding."""

    settable: frozenset[str] = frozenset()

    def __setattr__(self, name: str, value: Any) -> None:
        if name not in self.settable and not name.startswith("_"):
            raise AttributeError(f"{type(self).__name__} has no '{name}'")
        object.__setattr__(self, name, value)


class FakeTensorRt:
    """The module ``tensorrt`` of one version."""

    def __init__(self, version: str, *, parses: bool = True, builds: bool = True) -> None:
        major = int(version.split(".")[0])
        self.__version__ = version
        self.log = SimpleNamespace(
            network_flags=None, flags=[], cleared=[], profiles=[], config=None
        )
        self._parses, self._builds, self._major = parses, builds, major
        self.NetworkDefinitionCreationFlag = _names(
            "NetworkDefinitionCreationFlag",
            {
                8: {"EXPLICIT_BATCH": 0},
                10: {"EXPLICIT_BATCH": 0, "STRONGLY_TYPED": 1},
                11: {"STRONGLY_TYPED": 1},
            }[major],
        )
        flags = ["TF32", "REFIT"] + (["FP16", "INT8"] if major < 11 else [])
        self.BuilderFlag = _names("BuilderFlag", {name: i for i, name in enumerate(flags)})
        self.MemoryPoolType = _names("MemoryPoolType", {"WORKSPACE": 0})
        self.ProfilingVerbosity = _names("ProfilingVerbosity", {"DETAILED": 2})
        self.TensorIOMode = _names("TensorIOMode", {"INPUT": 1, "OUTPUT": 2})
        self.LayerInformationFormat = _names("LayerInformationFormat", {"JSON": 1})
        if major < 11:
            self.IInt8EntropyCalibrator2 = type("IInt8EntropyCalibrator2", (), {})
            self.IInt8MinMaxCalibrator = type("IInt8MinMaxCalibrator", (), {})

    class IProfiler:
        """Its subclasses are told of every layer of every run."""

    class Logger:
        WARNING = 2

        def __init__(self, severity: Any) -> None:
            assert severity == 2

    def Builder(self, logger: Any) -> Any:  # noqa: N802 - the binding's name
        return _Builder(self)

    def OnnxParser(self, network: Any, logger: Any) -> Any:  # noqa: N802
        return _Parser(self._parses)

    def Runtime(self, logger: Any) -> Any:  # noqa: N802
        return SimpleNamespace(deserialize_cuda_engine=lambda plan: self.deserialize(plan))

    def deserialize(self, plan: Any) -> Any:
        return None if plan == b"refused" else _Engine(self, json.loads(plan))


class _Parser:
    num_errors = 2

    def __init__(self, parses: Any) -> None:
        self._parses = parses

    def parse(self, content: Any) -> Any:
        assert isinstance(content, bytes)
        return self._parses

    def get_error(self, index: Any) -> Any:
        return f"error {index}"


class _Builder:
    def __init__(self, trt: Any) -> None:
        self._trt = trt

    def create_network(self, flags: Any) -> Any:
        self._trt.log.network_flags = flags
        return object()

    def create_builder_config(self) -> Any:
        self._trt.log.config = _Config(self._trt)
        return self._trt.log.config

    def create_optimization_profile(self) -> Any:
        shapes = {}
        return SimpleNamespace(
            set_shape=lambda name, low, best, high: shapes.update({name: (low, best, high)}),
            shapes=shapes,
        )

    def build_serialized_network(self, network: Any, config: Any) -> Any:
        if not self._trt._builds:
            return None
        sizes = [p.shapes["images"][0][0] for p in self._trt.log.profiles]
        return memoryview(json.dumps({"profiles": sizes}).encode())


class _Config(_Strict):
    def __init__(self, trt: Any) -> None:
        kept = {"builder_optimization_level", "profiling_verbosity"}
        kept |= {"int8_calibrator"} if trt._major < 11 else set()
        object.__setattr__(self, "settable", frozenset(kept))
        self._trt = trt

    def set_memory_pool_limit(self, pool: Any, size: Any) -> Any:
        assert pool is self._trt.MemoryPoolType.WORKSPACE
        self._trt.log.workspace = size

    def set_flag(self, flag: Any) -> Any:
        assert flag in self._trt.BuilderFlag
        self._trt.log.flags.append(flag.name)

    def clear_flag(self, flag: Any) -> Any:
        self._trt.log.cleared.append(flag.name)

    def add_optimization_profile(self, profile: Any) -> Any:
        self._trt.log.profiles.append(profile)


class _Engine:
    """One input, one output; profile i takes exactly batches of ``profiles[i]``."""

    num_io_tensors = 2

    def __init__(self, trt: Any, plan: Any) -> None:
        self._trt, self._profiles = trt, plan["profiles"]

    def get_tensor_name(self, index: Any) -> Any:
        return ("predictions", "images")[index]

    def get_tensor_mode(self, name: str) -> Any:
        modes = self._trt.TensorIOMode
        return modes.INPUT if name == "images" else modes.OUTPUT

    def create_execution_context(self) -> Any:
        return _Context(self._profiles, self._trt)

    def create_engine_inspector(self) -> Any:
        return SimpleNamespace(get_engine_information=lambda kind: json.dumps(self._information()))

    def _information(self) -> Any:
        def tensor(words: Any, short: Any) -> Any:
            old = {"Format/Datatype": words}
            return {"Format": "linear", "DataType": short} if self._trt._major == 11 else old

        int8 = tensor("Thirty-two wide channel vectorized row major Int8 format", "Int8")
        half = tensor("Row major linear FP16 format", "Half")
        return {
            "Layers": [
                {"Name": "stem + relu", "LayerType": "CaskConvolution", "Inputs": [int8]},
                {"Name": "up", "LayerType": "CaskDeconvolution", "Inputs": [half]},
                {
                    "Name": "pool",
                    "LayerType": "Pooling",
                    "ParameterType": "Pooling",
                    "Inputs": [half],
                },
                {"Name": "sigmoid", "LayerType": "PointWise", "Inputs": [half]},
            ],
            ("I/O Tensors" if self._trt._major == 11 else "Bindings"): [],
        }


class _Context:
    def __init__(self, profiles: Any, trt: Any) -> None:
        self._profiles, self._profile, self._trt = profiles, 0, trt
        self.profiler: Any = None
        self._shape: Any = None
        self._addresses: dict[str, int] = {}

    def set_optimization_profile_async(self, index: Any, stream: Any) -> Any:
        assert stream == 77
        self._profile = index

    def set_input_shape(self, name: str, shape: Any) -> Any:
        assert name == "images"
        self._shape = shape
        return shape[0] == self._profiles[self._profile]

    def get_tensor_shape(self, name: str) -> Any:
        return (self._shape[0], ANCHORS, COLUMNS) if name == "predictions" else self._shape

    def set_tensor_address(self, name: str, address: Any) -> Any:
        assert isinstance(address, int)
        self._addresses[name] = address

    def execute_async_v3(self, stream: Any) -> Any:
        assert stream == 77
        images = _array(self._addresses["images"], self._shape)
        _array(self._addresses["predictions"], (self._shape[0], ANCHORS, COLUMNS))[:] = function(
            images
        )
        if self.profiler is not None:
            assert isinstance(self.profiler, self._trt.IProfiler)
            for layer, milliseconds in LAYER_MILLISECONDS.items():
                self.profiler.report_layer_time(layer, milliseconds)
        return True


def _array(address: Any, shape: Any) -> Any:
    count = int(np.prod(shape))
    return np.ctypeslib.as_array((ctypes.c_float * count).from_address(address)).reshape(shape)


class FakeCuda:
    """``cuda.bindings.runtime`` over host memory; every call returns a tuple (error, *results)."""

    class cudaError_t(enum.IntEnum):  # noqa: N801 - the binding's name
        cudaSuccess = 0  # noqa: N815
        cudaErrorMemoryAllocation = 2  # noqa: N815

    class cudaMemcpyKind(enum.IntEnum):  # noqa: N801
        cudaMemcpyHostToDevice = 1  # noqa: N815
        cudaMemcpyDeviceToHost = 2  # noqa: N815

    def __init__(self, *, memory: int = 1 << 30) -> None:
        self.allocated: dict[int, Any] = {}
        self.streams, self._left = 0, memory

    def cudaMalloc(self, size: Any) -> Any:  # noqa: N802
        if size > self._left:
            return (self.cudaError_t.cudaErrorMemoryAllocation, None)
        self._left -= size
        buffer = ctypes.create_string_buffer(size)
        self.allocated[ctypes.addressof(buffer)] = buffer
        return (self.cudaError_t.cudaSuccess, ctypes.addressof(buffer))

    def cudaFree(self, address: Any) -> Any:  # noqa: N802
        del self.allocated[address]
        return (self.cudaError_t.cudaSuccess,)

    def cudaStreamCreate(self) -> Any:  # noqa: N802
        self.streams += 1
        return (self.cudaError_t.cudaSuccess, "stream")

    def cudaStreamDestroy(self, stream: Any) -> Any:  # noqa: N802
        self.streams -= 1
        return (self.cudaError_t.cudaSuccess,)

    def cudaStreamSynchronize(self, stream: Any) -> Any:  # noqa: N802
        assert stream == "stream"
        return (self.cudaError_t.cudaSuccess,)

    def cudaMemcpyAsync(self, target: int, source: int, size: int, kind: Any, stream: str) -> Any:  # noqa: N802
        on_device = target if kind == self.cudaMemcpyKind.cudaMemcpyHostToDevice else source
        assert len(self.allocated[on_device]) >= size
        ctypes.memmove(target, source, size)
        return (self.cudaError_t.cudaSuccess,)
