"""Settings of ``export``, and what can be known to be wrong before any work."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from quantpipe.engines.registry import engine_spec, require_calibration_cache
from quantpipe.errors import ConfigurationError
from quantpipe.export.tolerance import Tolerance
from quantpipe.graph.suppression import Suppression
from quantpipe.schema import Between, ExecutionOnly, Positive
from quantpipe.settings.data import DataSettings, check_data, data_content
from quantpipe.settings.engine import EngineName, Opset, resolved_opset
from quantpipe.versions import installed_versions

_OPSET_WITH_HALF_SCALES = 19
_MOST_DETECTIONS = 3840  # that TensorRT's TopK takes
_LIBRARIES = ("torch", "onnx", "onnx-ir", "onnxscript", "onnxsim", "onnxruntime")


@dataclass(frozen=True, kw_only=True)
class ToleranceSettings:
    """Limits by the arithmetic of the graph.

    A quantized graph may be ``int8_limit`` times as far from the float network, on average, as
    the fake-quantized network is.
    """

    fp32: Tolerance
    half: Tolerance
    int8_limit: Positive


@dataclass(frozen=True, kw_only=True)
class ExportConfig:
    """Settings of the stage; see ``conf/stage/export.yaml``."""

    quantized: bool
    ranges: Literal["qdq", "calibration_cache"]
    target: EngineName
    batch: Literal["dynamic"] | Annotated[int, Between(1, 1024)]
    engine_batches: Annotated[tuple[int, ...], Between(1, 1024), ExecutionOnly()]
    opset: Opset
    half: bool
    simplify: bool
    nms: Literal["none", "onnx", "tensorrt"]
    suppression: Suppression
    verify_images: Annotated[int, Between(1, 64)]
    tolerance: ToleranceSettings
    data: DataSettings

    def __post_init__(self) -> None:
        if self.batch != "dynamic" and self.engine_batches != (self.batch,):
            raise ConfigurationError(
                f"a graph of batch {self.batch} does not serve batches {list(self.engine_batches)}",
                path="batch",
                hint=f"set engine.batch_sizes=[{self.batch}], or export.batch=dynamic",
            )
        if self.suppression.max_detections > _MOST_DETECTIONS:
            raise ConfigurationError(
                f"{self.suppression.max_detections} is not between 1 and {_MOST_DETECTIONS}",
                path="suppression.max_detections",
            )
        if self.opset != "auto":
            _require_scales(self.opset, half=self.half)
        if self.nms == "tensorrt" and not engine_spec(self.target).runs_nms_plugin:
            raise ConfigurationError(
                f"{self.target} does not run TensorRT's plugin",
                path="nms",
                hint="give nms=onnx, or engine=tensorrt",
            )


def check(config: ExportConfig) -> None:
    """Finds missing data, and what the engine's library does not read."""
    check_data(config.data)
    if config.quantized and config.ranges == "calibration_cache":
        require_calibration_cache(config.target)
    _require_scales(resolved_opset(config.opset, config.target), half=config.half)


def _require_scales(opset: int, *, half: bool) -> None:
    if half and opset < _OPSET_WITH_HALF_SCALES:
        raise ConfigurationError(
            f"{opset} has no FP16 scales",
            path="opset",
            hint=f"give {_OPSET_WITH_HALF_SCALES} or more, or half=false",
        )


def content(config: ExportConfig, memo: Path) -> Mapping[str, Any]:
    """The images that the graph is verified on, and the libraries that write it."""
    return {
        "data": data_content(config.data, ("val",), memo),
        "libraries": installed_versions(_LIBRARIES),
        "opset": resolved_opset(config.opset, config.target),
    }
