"""A stand-in for ``onnxruntime`` on a GPU: it computes on the processor, and records its orders."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import onnx.reference
import onnxruntime

RTX = "NvTensorRTRTXExecutionProvider"
# What the documentation of each provider lists; anything else would be refused.
KNOWN = {
    "CUDAExecutionProvider": {"use_tf32", "device_id"},
    "TensorrtExecutionProvider": {
        "trt_fp16_enable",
        "trt_int8_enable",
        "trt_max_workspace_size",
        "trt_profile_min_shapes",
        "trt_profile_opt_shapes",
        "trt_profile_max_shapes",
    },
    RTX: {
        "nv_max_workspace_size",
        "nv_profile_min_shapes",
        "nv_profile_opt_shapes",
        "nv_profile_max_shapes",
    },
}


class SessionOptions:
    """Holds what it is told; unknown attributes are an error, as in the library."""

    __slots__ = (
        "devices",
        "enable_profiling",
        "entries",
        "log_severity_level",
        "profile_file_prefix",
    )

    def __init__(self) -> None:
        self.entries: dict[str, str] = {}
        self.devices: tuple[str, dict[str, str]] | None = None
        self.enable_profiling = False

    def add_session_config_entry(self, key: str, value: str) -> None:
        assert isinstance(value, str)
        self.entries[key] = value

    def add_provider_for_devices(self, devices: list[Any], options: dict[str, str]) -> None:
        (name,) = {device.ep_name for device in devices}
        self.devices = (name, _checked(name, options))


def _checked(name: str, options: dict[str, str]) -> dict[str, str]:
    assert set(options) <= KNOWN[name], set(options) - KNOWN[name]
    assert all(isinstance(value, str) for value in options.values())
    return options


class Session:
    """Runs the ONNX reference; on the GPU only if the library was told so, else it falls back."""

    def __init__(self, ort: FakeOnnxRuntime, content: bytes, options: Any, providers: Any):
        self._model = onnx.load_model_from_string(content)
        self._options = options
        named = [item if isinstance(item, tuple) else (item, {}) for item in providers or []]
        asked = [options.devices] if options is not None and options.devices else named
        self.orders = {
            name: options if name == "CPUExecutionProvider" else _checked(name, options)
            for name, options in asked
        }
        self._providers = [n for n in self.orders if n not in ort.broken]
        if "CPUExecutionProvider" not in self._providers:
            self._providers.append("CPUExecutionProvider")
        self._runs = 0
        path = {} if options is None else options.entries
        if "ep.context_enable" in path:
            assert path["ep.context_embed_mode"] == "1"
            compiled = onnx.ModelProto()
            compiled.CopyFrom(self._model)
            compiled.producer_name = "compiled"
            Path(path["ep.context_file_path"]).write_bytes(compiled.SerializeToString())

    def get_providers(self) -> list[str]:
        return self._providers

    def run(self, names: None, feeds: dict[str, np.ndarray]) -> list[np.ndarray]:
        self._runs += 1
        outputs: Any = onnx.reference.ReferenceEvaluator(self._model).run(names, feeds)
        return list(outputs)

    def end_profiling(self) -> str:
        events = [
            {
                "cat": "Node",
                "name": f"{node.name}_kernel_time",
                "dur": 1000 + run,
                "args": {"op_name": node.op_type, "input_type_shape": [{"float16": [1]}]},
            }
            for run in range(self._runs)
            for node in self._model.graph.node
        ]
        path = f"{self._options.profile_file_prefix}.json"
        Path(path).write_text(json.dumps([{"cat": "Session", "name": "x"}, *events]))
        return path


class FakeOnnxRuntime:
    """The module."""

    __version__ = "1.99.0"
    SessionOptions = SessionOptions
    capi = onnxruntime.capi

    def __init__(self, *, available: tuple[str, ...] = tuple(KNOWN), broken: tuple[str, ...] = ()):
        self.available, self.broken = available, broken
        self.sessions: list[Session] = []
        self.options: list[Any] = []
        self.registered: list[tuple[str, str]] = []

    def get_available_providers(self) -> list[str]:
        return [*self.available, "CPUExecutionProvider"]

    def register_execution_provider_library(self, name: str, path: str) -> None:
        assert (name, path) not in self.registered, "registered twice"
        self.registered.append((name, path))

    def get_ep_devices(self) -> list[Any]:
        names = ["CPUExecutionProvider", *(name for name, _ in self.registered)]
        return [SimpleNamespace(ep_name=name) for name in names if name not in self.broken]

    def InferenceSession(  # noqa: N802 - the library's name
        self,
        path_or_bytes: bytes,
        sess_options: Any = None,
        providers: Any = None,
        provider_options: Any = None,
        **ignored: Any,
    ) -> Session:
        """Takes any keyword, as the library does, and ignores those it does not know."""
        session = Session(self, path_or_bytes, sess_options, providers)
        self.sessions.append(session)
        self.options.append(sess_options)
        return session


class Plugin:
    """The module of the plugin."""

    @staticmethod
    def get_ep_name() -> str:
        return RTX

    @staticmethod
    def get_library_path() -> str:
        return "/plugin.so"
