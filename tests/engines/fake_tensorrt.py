"""Stand-ins for TensorRT: each version has what NVIDIA's bindings of it have, anything else fails.

``tensorrt_api.json`` lists that; ``list_tensorrt_api.py`` read it from the bindings themselves.
A fake engine computes ``function(images)``, so that copies, shapes and addresses are really tested.
"""

from __future__ import annotations

import ctypes
import enum
import importlib
import json
import sys
import weakref
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import onnx
from tests.engines.fake_cuda import STREAM_HANDLE

from quantpipe.engines import registry, tensorrt
from quantpipe.engines.contract import Platform

ANCHORS, COLUMNS = 4, 6
_ENGINE = "quantpipe.engines.tensorrt.backend"
LAYER_MILLISECONDS = {"stem + relu": 0.5, "up || pool": 0.25, "sigmoid": 0.125}
API: dict[str, Any] = json.loads(Path(__file__).with_name("tensorrt_api.json").read_text())[
    "versions"
]
VERSIONS = sorted(API, key=lambda version: [int(part) for part in version.split(".")])
NEWEST_OPSETS = {"8.6.1": 17, "10.0.1": 20}


def function(images: np.ndarray) -> np.ndarray:
    """(B, 3, S, S) -> (B, 4, 6); every value depends on its own image."""
    base = images.mean(axis=(1, 2, 3), dtype=np.float64)[:, None, None]
    rows: np.ndarray = (base + np.arange(ANCHORS * COLUMNS).reshape(1, ANCHORS, COLUMNS)).astype(
        np.float32
    )
    return rows


def detected(images: np.ndarray) -> dict[str, np.ndarray]:
    """As many detections as fit the image's mean, at most three, of two classes."""
    count = len(images)
    counts = np.minimum(images.mean(axis=(1, 2, 3)) * 4, 3).astype(np.int32)[:, None]
    shown = np.arange(3) < counts
    scores = (function(images)[:, :3, 0] * shown).astype(np.float32)
    corners = np.arange(12, dtype=np.float32).reshape(1, 3, 4)
    boxes: np.ndarray = np.repeat(corners, count, axis=0) * shown[..., None]
    classes = (np.arange(3, dtype=np.int32) % 2 * shown).astype(np.int32)
    return {
        "num_dets": counts,
        "det_boxes": boxes.astype(np.float32),
        "det_scores": scores,
        "det_classes": classes,
    }


class _Bound:
    """An object of a binding: names that the version's class does not list fail."""

    _bound_as = ""

    def __init__(self, trt: Any) -> None:
        self._trt = trt

    def __getattribute__(self, name: str) -> Any:
        if not name.startswith("_"):
            kind = type(self)._bound_as
            if name not in self._trt._api["classes"][kind]["members"]:
                raise AttributeError(f"{kind} of TensorRT {self._trt.__version__} has no '{name}'")
        return object.__getattribute__(self, name)

    def __setattr__(self, name: str, value: Any) -> None:
        if not name.startswith("_"):
            kind = type(self)._bound_as
            if name not in self._trt._api["classes"][kind]["settable"]:
                raise AttributeError(f"{kind} of TensorRT {self._trt.__version__} sets no '{name}'")
        object.__setattr__(self, name, value)


class FakeTensorRt:
    """The module ``tensorrt`` of one of ``VERSIONS``.

    Args:
        version: Whose names it has.
        cuda: The stand-in whose stream and memory its engines use.
        parses: Whether its parser takes graphs.
        builds: Whether its builder builds.
        detects: Whether its engines hand out ``detected`` instead of ``function``.
        gpu: Whether the driver works.
    """

    def __init__(
        self,
        version: str,
        cuda: Any = None,
        *,
        parses: bool = True,
        builds: bool = True,
        detects: bool = False,
        gpu: bool = True,
    ) -> None:
        self.__version__ = version
        self.log = SimpleNamespace(network_flags=None, told=[], timed=None, plugins=0, config=None)
        self._cuda, self._parses, self._builds, self._gpu = cuda, parses, builds, gpu
        self._api, self._detects = API[version], detects
        self._major = int(version.split(".")[0])
        for name, members in self._api["enums"].items():
            kind: Any = enum.IntEnum
            setattr(self, name, kind(name, members))
        for name in ("IInt8EntropyCalibrator2", "IInt8MinMaxCalibrator", "IProfiler"):
            if name in self._api["top"]:
                setattr(self, name, type(name, (), {}))

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(f"TensorRT {self.__version__} has no '{name}'")

    @property
    def number(self) -> int:
        """The version as a calibration cache holds it."""
        major, minor, patch = (int(part) for part in self.__version__.split(".")[:3])
        return major * (10_000 if major >= 10 else 1_000) + minor * 100 + patch

    class Logger:
        """Takes a severity."""

        WARNING = 2

        def __init__(self, severity: Any) -> None:
            assert severity == 2

    def init_libnvinfer_plugins(self, logger: Any, namespace: str) -> bool:
        assert namespace == ""
        self.log.plugins += 1
        return True

    def Builder(self, logger: Any) -> Any:  # noqa: N802 - the binding's name
        return self._on_gpu(_Builder)

    def OnnxParser(self, network: Any, logger: Any) -> Any:  # noqa: N802
        return _Parser(self, network)

    def Runtime(self, logger: Any) -> Any:  # noqa: N802
        return self._on_gpu(_Runtime)

    def _on_gpu(self, kind: Any) -> Any:
        if not self._gpu:
            raise TypeError("pybind11::init(): factory function returned nullptr")
        return kind(self)


def put_in_place(trt: FakeTensorRt, monkeypatch: Any) -> None:
    """Puts a stand-in in the place of the libraries, and a GPU in the machine."""
    bindings, utils = ModuleType("cuda.bindings"), ModuleType("cuda.bindings.utils")
    vars(bindings)["runtime"] = trt._cuda
    vars(utils)["get_cuda_native_handle"] = lambda stream: STREAM_HANDLE
    modules = {"tensorrt": trt, "cuda": ModuleType("cuda"), "cuda.bindings": bindings}
    for name, module in {**modules, "cuda.bindings.utils": utils}.items():
        monkeypatch.setitem(sys.modules, name, module)
    found_by_polygraphy(trt, monkeypatch)
    # The module of the engine imports them, so it goes when they go.
    monkeypatch.setitem(sys.modules, _ENGINE, None)
    monkeypatch.setattr(tensorrt, "backend", None, raising=False)
    del sys.modules[_ENGINE]
    importlib.import_module(_ENGINE)
    here = Platform(library=f"tensorrt {trt.__version__}", hardware="NVIDIA T4 (compute 7.5)")
    monkeypatch.setattr(registry, "availability", lambda name, **how: None)
    monkeypatch.setattr(registry, "platform_here", lambda name: here)


def found_by_polygraphy(trt: FakeTensorRt, monkeypatch: Any) -> None:
    """Makes a stand-in the module that Polygraphy imports, which keeps the first that it meets."""
    for name in list(sys.modules):
        if name.startswith(("polygraphy", "quantpipe.engines.tensorrt.polygraphy")):
            monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "tensorrt", trt)


class _Builder(_Bound):
    _bound_as = "Builder"

    def create_network(self, flags: Any = 0) -> Any:
        self._trt.log.network_flags = flags
        return _Network(self._trt, flags)

    def create_builder_config(self) -> Any:
        self._trt.log.config = _Config(self._trt)
        return self._trt.log.config

    def create_optimization_profile(self) -> Any:
        return _Profile(self._trt)

    def build_serialized_network(self, network: Any, config: Any) -> Any:
        """None where TensorRT would log an error and return no plan."""
        if not self._trt._builds or not _buildable(self._trt, network, config):
            return None
        cache = config._cache
        self._trt.log.timed = 0 if cache._content else 10
        cache._content = f"timings of {self._trt.__version__}".encode()
        shape = network._inputs[0]._shape
        return memoryview(json.dumps({"profiles": config._profiles, "shape": shape}).encode())


def _buildable(trt: Any, network: Any, config: Any) -> bool:
    flags = {trt.BuilderFlag(flag).name for flag in config._flags}
    if network._typed:
        return not flags & {"FP16", "INT8"}
    calibrator = getattr(config, "int8_calibrator", None) if trt._major < 11 else None
    if network._has_qdq or calibrator is None:
        return bool(network._has_qdq == ("INT8" in flags))
    header = calibrator.read_calibration_cache().decode().partition("-")[2]
    fits = header.startswith(f"{trt.number}-")
    return "INT8" in flags and bool(fits or calibrator.get_batch(["images"]) is not None)


class _Network(_Bound):
    _bound_as = "INetworkDefinition"

    def __init__(self, trt: Any, flags: int) -> None:
        super().__init__(trt)
        kinds = trt.NetworkDefinitionCreationFlag
        assert flags < 1 << len(kinds)
        strongly = getattr(kinds, "STRONGLY_TYPED", None)
        self._flags = flags
        self._typed = trt._major >= 11 or (strongly is not None and bool(flags >> strongly & 1))
        self._explicit = trt._major >= 10 or bool(flags & 1)
        self._layers: list[Any] = []
        self._inputs: list[Any] = []
        self._has_qdq = False

    def __len__(self) -> int:
        return len(self._layers)

    def __getitem__(self, index: int) -> Any:
        return self._layers[index]

    @property
    def num_inputs(self) -> int:
        return len(self._inputs)

    def get_input(self, index: int) -> Any:
        return self._inputs[index]

    def get_flag(self, flag: Any) -> bool:
        return bool(self._flags >> flag & 1)


class _Layer(_Bound):
    _bound_as = "ILayer"

    def __init__(self, trt: Any, node: Any) -> None:
        super().__init__(trt)
        kinds = {"QuantizeLinear": "QUANTIZE", "DequantizeLinear": "DEQUANTIZE"}
        self._name, self._type = node.name, kinds.get(node.op_type, "CONVOLUTION")

    @property
    def name(self) -> str:
        return str(self._name)

    @property
    def type(self) -> Any:
        return self._trt.LayerType[self._type]

    @property
    def precision_is_set(self) -> bool:
        return False


class _Tensor(_Bound):
    _bound_as = "ITensor"

    def __init__(self, trt: Any, value: Any) -> None:
        super().__init__(trt)
        dims = value.type.tensor_type.shape.dim
        self._name = value.name
        self._shape = tuple(d.dim_value if d.HasField("dim_value") else -1 for d in dims)

    @property
    def name(self) -> str:
        return str(self._name)

    @property
    def shape(self) -> tuple[int, ...]:
        return self._shape

    @property
    def dtype(self) -> Any:
        return self._trt.DataType.FLOAT

    @property
    def is_shape_tensor(self) -> bool:
        return False


class _Parser(_Bound):
    _bound_as = "OnnxParser"

    def __init__(self, trt: Any, network: Any) -> None:
        super().__init__(trt)
        self._network = network
        self._errors: list[str] = []

    def parse(self, content: Any) -> bool:
        assert isinstance(content, bytes)
        model = onnx.load_model_from_string(content)
        opset = next(item.version for item in model.opset_import if item.domain == "")
        if not self._trt._parses:
            self._errors = ["error 0", "error 1"]
        elif opset > NEWEST_OPSETS.get(self._trt.__version__, opset):
            self._errors = [f"opset {opset}"]
        elif not self._network._explicit:
            self._errors = ["no explicit batch"]
        self._network._layers = [_Layer(self._trt, node) for node in model.graph.node]
        self._network._inputs = [_Tensor(self._trt, value) for value in model.graph.input]
        self._network._has_qdq = any(n.op_type == "QuantizeLinear" for n in model.graph.node)
        return not self._errors

    @property
    def num_errors(self) -> int:
        return len(self._errors)

    def get_error(self, index: Any) -> Any:
        return self._errors[index]


class _Profile(_Bound):
    _bound_as = "IOptimizationProfile"

    def __init__(self, trt: Any) -> None:
        super().__init__(trt)
        self._shapes: dict[str, Any] = {}

    def set_shape(self, input: str, min: Any, opt: Any, max: Any) -> None:  # noqa: A002
        self._shapes[input] = [list(min), list(opt), list(max)]

    def __bool__(self) -> bool:
        return bool(self._shapes)


class _TimingCache(_Bound):
    _bound_as = "ITimingCache"

    def __init__(self, trt: Any, content: bytes) -> None:
        super().__init__(trt)
        self._content = content

    def serialize(self) -> Any:
        return memoryview(self._content)


class _Config(_Bound):
    """Keeps all it is told in ``log.told``, as (name, value)."""

    _bound_as = "IBuilderConfig"

    def __init__(self, trt: Any) -> None:
        super().__init__(trt)
        self._flags = {trt.BuilderFlag.TF32}
        self._profiles: list[Any] = []
        self._cache: Any = _TimingCache(trt, b"")

    def __setattr__(self, name: str, value: Any) -> None:
        super().__setattr__(name, value)
        if not name.startswith("_"):
            self._tell(name, type(value).__bases__ if name == "int8_calibrator" else value)

    def _tell(self, name: str, value: Any) -> None:
        self._trt.log.told.append((name, value))

    def set_memory_pool_limit(self, pool: Any, pool_size: Any) -> None:
        self._tell("pool", (self._trt.MemoryPoolType(pool).name, pool_size))

    def get_memory_pool_limit(self, pool: Any) -> int:
        return 0

    def set_flag(self, flag: Any) -> None:
        self._flags.add(self._trt.BuilderFlag(flag))
        self._tell("set_flag", flag.name)

    def clear_flag(self, flag: Any) -> None:
        self._flags.discard(self._trt.BuilderFlag(flag))
        self._tell("clear_flag", flag.name)

    def get_flag(self, flag: Any) -> bool:
        return flag in self._flags

    def add_optimization_profile(self, profile: Any) -> int:
        self._profiles.append(profile._shapes["images"])
        self._tell("profile", profile._shapes)
        return len(self._profiles) - 1

    def set_calibration_profile(self, profile: Any) -> bool:
        self._tell("calibration_profile", profile._shapes)
        return True

    def create_timing_cache(self, serialized_timing_cache: Any) -> Any:
        return _TimingCache(self._trt, bytes(serialized_timing_cache))

    def set_timing_cache(self, cache: Any, ignore_mismatch: bool) -> bool:
        assert not ignore_mismatch
        fits = cache._content in (b"", f"timings of {self._trt.__version__}".encode())
        if fits:
            self._cache = cache
        return fits

    def get_timing_cache(self) -> Any:
        return self._cache

    @property
    def num_optimization_profiles(self) -> int:
        return len(self._profiles)

    @property
    def DLA_core(self) -> int:  # noqa: N802
        return -1

    @property
    def default_device_type(self) -> Any:
        return self._trt.DeviceType.GPU

    @property
    def engine_capability(self) -> Any:
        return self._trt.EngineCapability.STANDARD

    def get_tactic_sources(self) -> int:
        return 0

    def get_preview_feature(self, feature: Any) -> bool:
        return False

    def get_quantization_flag(self, flag: Any) -> bool:
        return False


class _Runtime(_Bound):
    _bound_as = "Runtime"

    def deserialize_cuda_engine(self, plan: Any) -> Any:
        return None if plan == b"refused" else _Engine(self._trt, json.loads(plan))


class _Engine(_Bound):
    """One input; the first output is ``function`` of it. Profiles are those it was built with."""

    _bound_as = "ICudaEngine"

    def __init__(self, trt: Any, plan: Any) -> None:
        super().__init__(trt)
        self._profiles, self._shape = plan["profiles"], plan["shape"]
        self._compute = (
            detected if trt._detects else lambda images: {"predictions": function(images)}
        )
        # TensorRT lists them in an order of its own.
        self._names = sorted(self._compute(np.zeros((1, 3, 1, 1), dtype=np.float32)))
        self._contexts: Any = weakref.WeakSet()

    @property
    def num_io_tensors(self) -> int:
        return 1 + len(self._names)

    @property
    def num_optimization_profiles(self) -> int:
        return len(self._profiles)

    def get_tensor_name(self, index: Any) -> Any:
        return [*self._names, "images"][index]

    def get_tensor_mode(self, name: str) -> Any:
        modes = self._trt.TensorIOMode
        return modes.INPUT if name == "images" else modes.OUTPUT

    def get_tensor_dtype(self, name: str) -> Any:
        kinds = self._trt.DataType
        return kinds.INT32 if name in ("num_dets", "det_classes") else kinds.FLOAT

    def get_tensor_shape(self, name: str) -> Any:
        assert name == "images"
        return self._shape

    def get_tensor_profile_shape(self, name: str, profile_index: int) -> Any:
        assert name == "images"
        assert -1 in self._shape
        return self._profiles[profile_index]

    def create_execution_context(self) -> Any:
        context = _Context(self._trt, self)
        self._contexts.add(context)
        return context

    def create_engine_inspector(self) -> Any:
        return _Inspector(self._trt)


class _Context(_Bound):
    _bound_as = "IExecutionContext"

    def __init__(self, trt: Any, engine: Any) -> None:
        super().__init__(trt)
        self._engine = engine
        # The first context takes the first profile by itself.
        self._profile: int | None = None if len(engine._contexts) else 0
        self._shape: Any = None
        self._addresses: dict[str, int] = {}
        self._profiler: Any = None

    @property
    def profiler(self) -> Any:
        return self._profiler

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "profiler":
            assert isinstance(value, self._trt.IProfiler)
            name = "_profiler"
        super().__setattr__(name, value)

    def set_optimization_profile_async(self, profile_index: Any, stream_handle: Any) -> bool:
        assert stream_handle == 77
        others = [c._profile for c in self._engine._contexts if c is not self]
        if self._trt._major < 10 and profile_index in others:
            return False
        self._profile = profile_index
        return True

    def set_input_shape(self, name: str, shape: Any) -> bool:
        assert name == "images"
        assert self._profile is not None
        low, _, high = self._engine._profiles[self._profile]
        fits = all(a <= n <= b for a, n, b in zip(low, shape, high, strict=True))
        self._shape = tuple(shape) if fits else None
        return fits

    def get_tensor_shape(self, name: str) -> Any:
        if name == "images":
            return self._shape
        return self._engine._compute(np.zeros(self._shape, dtype=np.float32))[name].shape

    def set_tensor_address(self, name: str, memory: Any) -> bool:
        assert isinstance(memory, int)
        self._addresses[name] = memory
        return True

    def infer_shapes(self) -> Any:
        return [] if self._shape is not None else ["images"]

    def execute_async_v3(self, stream_handle: Any) -> bool:
        assert stream_handle == 77
        assert set(self._addresses) == {"images", *self._engine._names}
        return bool(self._trt._cuda.enqueue(self._compute))

    def _compute(self) -> None:
        images = _array(self._addresses["images"], self._shape, ctypes.c_float)
        for name, values in self._engine._compute(images).items():
            kind = ctypes.c_float if values.dtype == np.float32 else ctypes.c_int32
            _array(self._addresses[name], values.shape, kind)[:] = values
        if self._profiler is not None:
            for layer, milliseconds in LAYER_MILLISECONDS.items():
                self._profiler.report_layer_time(layer, milliseconds)


def _array(address: Any, shape: Any, kind: Any) -> Any:
    count = int(np.prod(shape))
    return np.ctypeslib.as_array((kind * count).from_address(address)).reshape(shape)


class _Inspector(_Bound):
    _bound_as = "EngineInspector"

    def __init__(self, trt: Any) -> None:
        super().__init__(trt)
        self._context: Any = None

    def __setattr__(self, name: str, value: Any) -> None:
        super().__setattr__("_context" if name == "execution_context" else name, value)

    def get_engine_information(self, format: Any) -> str:  # noqa: A002
        assert format is self._trt.LayerInformationFormat.JSON
        return json.dumps(self._information())

    def _tensor(self, words: str, short: str) -> dict[str, str]:
        if self._trt._major >= 11:
            return {"Format": "linear", "DataType": short}
        # 8.6 does not tell types of tensors of dynamic shape, 10 only in a context with shapes.
        known = self._trt._major >= 10 and self._context is not None
        return {"Format/Datatype": words if known else "N/A due to dynamic shapes"}

    def _information(self) -> Any:
        int8 = self._tensor("Thirty-two wide channel vectorized row major Int8 format", "Int8")
        half = self._tensor("Row major linear FP16 format", "Half")
        copy = "Reformatting CopyNode for Input Tensor 0 to stem + relu"
        return {
            "Layers": [
                {
                    "Name": copy,
                    "LayerType": "Reformat",
                    "Inputs": [half],
                    "Metadata": "[ONNX Layer: stem]",
                },
                {
                    "Name": "stem + relu",
                    "LayerType": "CaskConvolution",
                    "Inputs": [int8],
                    "Weights": {"Type": "Int8", "Count": 432},
                    "Metadata": "[ONNX Layer: stem]\x1f[ONNX Layer: relu]",
                },
                {
                    "Name": "up || pool",
                    "LayerType": "CaskDeconvolution",
                    "Inputs": [half],
                    "Weights": {"Type": "Half", "Count": 64},
                },
                {
                    "Name": "pool",
                    "LayerType": "Pooling",
                    "ParameterType": "Pooling",
                    "Inputs": [int8],
                    "TacticName": "sm80_xmma_pooling_i8i8_max",
                },
                {
                    "Name": "__myl_sigmoid_0",
                    "LayerType": "kgen",
                    "Inputs": [half],
                    "TacticName": "__myl_sigmoid_f16",
                    "Metadata": "[ONNX Layer: sigmoid | inlined]",
                },
            ],
            ("I/O Tensors" if self._trt._major >= 11 else "Bindings"): [],
        }
