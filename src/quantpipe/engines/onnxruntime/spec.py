"""What ONNX Runtime is, on processors and with each provider for GPUs, without importing it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from typing import Annotated, Literal

from quantpipe.engines import hardware
from quantpipe.engines.contract import Backend, LibrarySettings
from quantpipe.engines.engine_spec import EngineSpec, QuantizedNode, imported
from quantpipe.quantization.number_format import INT8, SHIFTED_INT8, UINT8
from quantpipe.quantization.placement import Placement
from quantpipe.schema import Between


@dataclass(frozen=True, kw_only=True)
class ProcessorSettings(LibrarySettings):
    """What ONNX Runtime is told on a processor.

    Attributes:
        num_streams: How many batches at once in ``throughput``; 0: one for each thread.
        num_threads: Processor threads an engine uses; 0 leaves it to the library.
    """

    name: Literal["onnxruntime"]
    num_streams: Annotated[int, Between(0, 1024)]
    num_threads: Annotated[int, Between(0, 1024)]


@dataclass(frozen=True, kw_only=True)
class CudaSettings(LibrarySettings):
    """What the CUDA provider is told."""

    name: Literal["onnxruntime_cuda"]


@dataclass(frozen=True, kw_only=True)
class TensorRtProviderSettings(LibrarySettings):
    """What the providers for TensorRT and for TensorRT for RTX are told.

    Attributes:
        workspace_mib: Scratch memory that building may use, in MiB.
    """

    name: Literal["onnxruntime_tensorrt", "onnxruntime_tensorrt_rtx"]
    workspace_mib: Annotated[int, Between(16)]


GpuSettings = CudaSettings | TensorRtProviderSettings

# Processors multiply unsigned activations by signed weights. A convolution is fused only if its
# output is quantized, and a ReLU into it only if the zero point is the smallest value of the type.
_PROCESSOR = Placement(
    activations={INT8: (UINT8, SHIFTED_INT8)}, folded_weights=True, quantized_concat_inputs=True
)

# The TensorRT below takes zero point 0 only. With CUDA alone all is float: Q/DQ would be computed
# as it is written.
_GPU = Placement(activations={INT8: (INT8,)}, folded_weights=False, quantized_concat_inputs=False)


def _without_kernel(node: QuantizedNode) -> str | None:
    if node.kind == "ConvTranspose":
        return "ONNX Runtime has no integer ConvTranspose"
    if node.kind == "Conv" and not node.requantized:
        return "nothing quantizes its result, which ONNX Runtime's integer convolution needs"
    return None


def _on_gpu(name: str) -> Callable[[], Backend]:
    def load() -> Backend:
        made: Backend = import_module("quantpipe.engines.onnxruntime.gpu").backend(name)
        return made

    return load


def _typed(calibration_cache: bool) -> bool:  # noqa: ARG001 - there is none
    return True


_INSTALL_GPU = "pip uninstall -y onnxruntime; pip install 'onnxruntime-gpu>=1.22'"
_TENSORRT_WHEELS = ("tensorrt", "tensorrt-cu13", "tensorrt-cu12", "tensorrt-cu11")
RTX_PLUGIN, _RTX_WHEEL = "onnxruntime_ep_nv_tensorrt_rtx", "onnxruntime-ep-nv-tensorrt-rtx"

PROCESSOR = EngineSpec(
    name="onnxruntime",
    settings=ProcessorSettings,
    packages=("onnxruntime",),
    distributions=("onnxruntime", "onnxruntime-gpu"),
    install="pip install 'onnxruntime>=1.22'",
    precisions=("fp32", "int8"),
    modes=("latency", "throughput"),
    hardware=hardware.processor,
    backend=imported("quantpipe.engines.onnxruntime.processor"),
    placement=_PROCESSOR,
    fallback=_without_kernel,
)
CUDA = EngineSpec(
    name="onnxruntime_cuda",
    settings=CudaSettings,
    packages=("onnxruntime",),
    distributions=("onnxruntime-gpu",),
    install=_INSTALL_GPU,
    precisions=("fp32", "half"),
    modes=("latency",),
    hardware=hardware.nvidia_gpu,
    backend=_on_gpu("onnxruntime_cuda"),
    placement=_GPU,
    missing_hardware=hardware.NO_NVIDIA_GPU,
    needs=("onnxruntime-gpu",),
    half_in_graph=_typed,
)
TENSORRT = EngineSpec(
    name="onnxruntime_tensorrt",
    settings=TensorRtProviderSettings,
    packages=("onnxruntime",),
    distributions=("onnxruntime-gpu",),
    install=f"{_INSTALL_GPU} tensorrt",
    precisions=("fp32", "half", "int8"),
    modes=("latency",),
    hardware=hardware.nvidia_gpu,
    backend=_on_gpu("onnxruntime_tensorrt"),
    placement=_GPU,
    missing_hardware=hardware.NO_NVIDIA_GPU,
    needs=("onnxruntime-gpu",),
    tied_to=_TENSORRT_WHEELS,
    half_in_graph=_typed,
)
TENSORRT_RTX = EngineSpec(
    name="onnxruntime_tensorrt_rtx",
    settings=TensorRtProviderSettings,
    packages=("onnxruntime", RTX_PLUGIN),
    distributions=("onnxruntime",),
    install=f"pip uninstall -y onnxruntime-gpu; pip install onnxruntime {_RTX_WHEEL}",
    precisions=("fp32", "half", "int8"),
    modes=("latency",),
    hardware=hardware.nvidia_gpu,
    backend=_on_gpu("onnxruntime_tensorrt_rtx"),
    placement=_GPU,
    missing_hardware=hardware.NO_NVIDIA_GPU,
    tied_to=(_RTX_WHEEL, f"{_RTX_WHEEL}-cu13", f"{_RTX_WHEEL}-cu12"),
    half_in_graph=_typed,
)
