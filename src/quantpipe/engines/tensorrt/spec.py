"""What TensorRT is, by the version that is installed here, without importing it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from quantpipe.engines import hardware
from quantpipe.engines.contract import LibrarySettings
from quantpipe.engines.engine_spec import CalibrationCacheReader, EngineSpec, Opsets, imported
from quantpipe.engines.tensorrt.version import DISTRIBUTIONS, installed_tensorrt
from quantpipe.errors import ConfigurationError, MachineError
from quantpipe.quantization.number_format import INT8
from quantpipe.quantization.placement import Placement
from quantpipe.schema import Between


@dataclass(frozen=True, kw_only=True)
class TensorRtSettings(LibrarySettings):
    """What TensorRT's builder is told.

    Attributes:
        workspace_mib: Scratch memory that it may use, in MiB.
        optimization_level: How long it searches, 0 to 5.
    """

    name: Literal["tensorrt"]
    workspace_mib: Annotated[int, Between(16)]
    optimization_level: Annotated[int, Between(0, 5)]


# Zero point 0 is the only one it takes, and its version 8 wants float32 weights.
_PLACEMENT = Placement(
    activations={INT8: (INT8,)}, folded_weights=False, quantized_concat_inputs=False
)


def _opsets() -> Opsets:
    version = installed_tensorrt()
    if version is None:
        return Opsets()
    return Opsets(best=version.opset, newest=version.newest_opset, reader=str(version))


def _types_in_graph(calibration_cache: bool) -> bool:
    version = installed_tensorrt()
    if version is None:
        raise MachineError(
            "TensorRT is here, but not as an installed distribution that tells its version",
            hint="pip install 'quantpipe[tensorrt]'",
        )
    return version.takes_types_from_graph(calibration_cache=calibration_cache)


def _check_calibration_cache() -> None:
    version = installed_tensorrt()
    if version is not None and not version.implicit_quantization:
        raise ConfigurationError(
            f"{version} takes ranges from Q/DQ nodes only, implicit quantization is gone since 11",
            path="ranges",
            hint="set ranges=qdq (as pipelines=ptq does), or install TensorRT 10",
        )


SPEC = EngineSpec(
    name="tensorrt",
    settings=TensorRtSettings,
    packages=("tensorrt", "cuda.bindings"),
    builders=("polygraphy",),
    distributions=DISTRIBUTIONS,
    install="pip install 'quantpipe[tensorrt]'",
    precisions=("fp32", "half", "int8"),
    modes=("latency",),
    hardware=hardware.nvidia_gpu,
    backend=imported("quantpipe.engines.tensorrt.backend"),
    placement=_PLACEMENT,
    missing_hardware=hardware.NO_NVIDIA_GPU,
    opsets=_opsets,
    half_in_graph=_types_in_graph,
    calibration_cache=CalibrationCacheReader(
        name="TensorRT up to 10", check=_check_calibration_cache
    ),
    runs_nms_plugin=True,
)
