"""How ONNX Runtime is told to compute on an NVIDIA GPU: the session of each execution provider.

The library is an argument, so that a stand-in can take its place. Sources: ONNX Runtime's pages on
the CUDA and TensorRT execution providers and on EP contexts; NVIDIA's on the TensorRT RTX plugin.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from quantpipe.engines.contract import ImageSize
from quantpipe.engines.onnxruntime.kernels import ERRORS_ONLY
from quantpipe.errors import MachineError

CPU = "CPUExecutionProvider"
_MIB = 1 << 20


@dataclass(frozen=True, kw_only=True)
class Job:
    """What a session is for.

    Attributes:
        int8: The graph carries Q/DQ.
        half: The graph holds FP16 types.
        input_name: Of the images.
        image_size: Of the input.
        batch_sizes: That will run, ascending.
        workspace_mib: Scratch memory of a builder; None where nothing is built any more.
    """

    int8: bool
    half: bool
    input_name: str
    image_size: ImageSize
    batch_sizes: tuple[int, ...]
    workspace_mib: int | None

    def shapes(self, batch_size: int) -> str:
        """The input's shape in the words of both TensorRT providers."""
        height, width = self.image_size
        return f"{self.input_name}:{batch_size}x3x{height}x{width}"


@dataclass(frozen=True, kw_only=True)
class Provider:
    """An execution provider.

    Attributes:
        name: ONNX Runtime's.
        options: What it is told, all as text.
        compiles: It can hand out what it compiled, as an EP context inside an ONNX file.
        plugin: It comes as a library of its own, which is registered first.
    """

    name: str
    options: Callable[[Job], dict[str, str]]
    compiles: bool
    plugin: bool


def _cuda_options(job: Job) -> dict[str, str]:  # noqa: ARG001 - one signature for all providers
    # float32 means float32: TensorFloat-32 keeps ten bits of it.
    return {"use_tf32": "0"}


def _tensorrt_options(job: Job) -> dict[str, str]:
    options = {
        "trt_fp16_enable": str(int(job.half)),
        "trt_int8_enable": str(int(job.int8)),
        **_profile(job, "trt"),
    }
    if job.workspace_mib is not None:
        options["trt_max_workspace_size"] = str(job.workspace_mib * _MIB)
    return options


def _rtx_options(job: Job) -> dict[str, str]:
    """TensorRT for RTX takes types from the graph alone."""
    options = _profile(job, "nv")
    if job.workspace_mib is not None:
        options["nv_max_workspace_size"] = str(job.workspace_mib * _MIB)
    return options


def _profile(job: Job, prefix: str) -> dict[str, str]:
    smallest, largest = job.batch_sizes[0], job.batch_sizes[-1]
    return {
        f"{prefix}_profile_min_shapes": job.shapes(smallest),
        f"{prefix}_profile_opt_shapes": job.shapes(largest),
        f"{prefix}_profile_max_shapes": job.shapes(largest),
    }


PROVIDERS: Mapping[str, Provider] = {
    "onnxruntime_cuda": Provider(
        name="CUDAExecutionProvider", options=_cuda_options, compiles=False, plugin=False
    ),
    "onnxruntime_tensorrt": Provider(
        name="TensorrtExecutionProvider", options=_tensorrt_options, compiles=True, plugin=False
    ),
    "onnxruntime_tensorrt_rtx": Provider(
        name="NvTensorRTRTXExecutionProvider", options=_rtx_options, compiles=True, plugin=True
    ),
}


def open_session(
    ort: Any,
    plugin: Any,
    provider: Provider,
    content: bytes,
    job: Job,
    *,
    context_path: Path | None = None,
    profile_prefix: str | None = None,
) -> Any:
    """Returns a session that computes on the provider.

    Args:
        ort: The ``onnxruntime`` module.
        plugin: The module of a provider that is a plugin; unused for others.
        provider: An entry of :data:`PROVIDERS`.
        content: An ONNX model.
        job: What the session is for.
        context_path: Where a provider that compiles leaves what it compiled.
        profile_prefix: Where a profile begins; None for no profile.

    Raises:
        MachineError: The provider is not in this build of ONNX Runtime, finds no GPU, or lets ONNX
            Runtime fall back to the processor.
    """
    options = _options(ort, context_path, profile_prefix)
    if provider.plugin:
        options.add_provider_for_devices(_devices(ort, plugin), provider.options(job))
        # With another keyword than this one ONNX Runtime ignores the options without a word.
        session = ort.InferenceSession(content, sess_options=options)
        name = str(plugin.get_ep_name())
    else:
        name = provider.name
        if name not in ort.get_available_providers():
            raise MachineError(
                f"ONNX Runtime {ort.__version__} was built without {name}",
                hint="install onnxruntime-gpu in place of onnxruntime",
            )
        chosen = [(name, provider.options(job)), CPU]
        session = ort.InferenceSession(content, sess_options=options, providers=chosen)
    if name not in session.get_providers():
        raise MachineError(
            f"{name} could not start, ONNX Runtime fell back to {session.get_providers()}",
            hint="its log is above; CUDA, cuDNN or TensorRT may be missing or of another version",
        )
    return session


def _options(ort: Any, context_path: Path | None, profile_prefix: str | None) -> Any:
    options = ort.SessionOptions()
    options.log_severity_level = ERRORS_ONLY
    # Or signed codes become unsigned ones, which TensorRT does not take.
    options.add_session_config_entry("session.qdqisint8allowed", "1")
    if context_path is not None:
        options.add_session_config_entry("ep.context_enable", "1")
        options.add_session_config_entry("ep.context_embed_mode", "1")
        options.add_session_config_entry("ep.context_file_path", str(context_path))
    if profile_prefix is not None:
        options.enable_profiling = True
        options.profile_file_prefix = profile_prefix
    return options


def _devices(ort: Any, plugin: Any) -> list[Any]:
    """The GPUs that the plugin computes on; it is registered once in a process."""
    name = plugin.get_ep_name()
    found = [device for device in ort.get_ep_devices() if device.ep_name == name]
    if not found:
        ort.register_execution_provider_library(name, plugin.get_library_path())
        found = [device for device in ort.get_ep_devices() if device.ep_name == name]
    if not found:
        raise MachineError(
            f"{name} finds no GPU that it takes", hint="it needs RTX, Ampere or newer"
        )
    return found[:1]
