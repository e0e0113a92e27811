"""The ONNX graph of a network: float, FP16, or with the Q/DQ pairs of its scale cache."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from quantpipe.core.artifact import ArtifactKind
from quantpipe.core.schema import Between, ExecutionOnly
from quantpipe.core.stage import Context, Inputs, Metrics, Output, Outputs, Stage, may_take, takes
from quantpipe.errors import ConfigurationError
from quantpipe.installed import installed_versions
from quantpipe.settings.data import DataSettings, check_data, data_content, open_split
from quantpipe.settings.engine import EngineName
from quantpipe.settings.opset import Opset, resolved_opset
from quantpipe.settings.recipe import Fraction, Positive

if TYPE_CHECKING:
    from quantpipe.assembly.networks import Loaded

_OPSET_WITH_HALF_SCALES = 19
_LIBRARIES = ("torch", "onnx", "onnx-ir", "onnxscript", "onnxsim", "onnxruntime")


@dataclass(frozen=True, kw_only=True)
class Limits:
    """Largest differences of boxes (pixels) and scores that pass."""

    box_max_abs: Positive
    box_mean_abs: Positive
    score_max_abs: Positive
    score_mean_abs: Positive


@dataclass(frozen=True, kw_only=True)
class ToleranceSettings:
    """Limits by the arithmetic of the graph.

    A quantized graph may be ``int8_limit`` times as far from the float network, on average, as
    the fake-quantized network is.
    """

    float32: Limits
    half: Limits
    int8_limit: Positive


@dataclass(frozen=True, kw_only=True)
class SuppressionSettings:
    """What a graph with ``nms`` hands out."""

    confidence: Fraction
    iou: Fraction
    max_detections: Annotated[int, Between(1, 3840)]  # the most that TensorRT's TopK takes


@dataclass(frozen=True, kw_only=True)
class ExportConfig:
    """Settings of the stage; see ``conf/stage/export.yaml``."""

    target: EngineName
    batch: Literal["dynamic"] | Annotated[int, Between(1, 1024)]
    engine_batches: Annotated[tuple[int, ...], Between(1, 1024), ExecutionOnly()]
    opset: Opset
    half: bool
    simplify: bool
    nms: Literal["none", "onnx", "tensorrt"]
    suppression: SuppressionSettings
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
        if self.opset != "auto":
            _require_scales(self.opset, half=self.half)
        if self.nms == "tensorrt" and self.target != "tensorrt":
            raise ConfigurationError(
                f"{self.target} does not run TensorRT's plugin",
                path="nms",
                hint="give nms=onnx, or engine=tensorrt",
            )


def check(config: ExportConfig) -> None:
    """Finds a missing data set, and an opset that the engine's library does not parse."""
    check_data(config.data)
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


def run(config: ExportConfig, inputs: Inputs, outputs: Outputs, context: Context) -> Metrics:
    """Traces the folded network, places Q/DQ, simplifies, and verifies before it is published."""
    from quantpipe.assembly.engines import engine_graph
    from quantpipe.assembly.networks import deployed, load_inputs
    from quantpipe.export.onnx_graph import export_float, read_graph, write_graph

    loaded = deployed(load_inputs(inputs, "cpu"))
    path = outputs["onnx"]
    export_float(
        loaded.network,
        path,
        image_size=loaded.checkpoint.image_size,
        batch=config.batch,
        opset=resolved_opset(config.opset, config.target),
    )
    traced = read_graph(path)
    if loaded.scales is not None and config.target == "tensorrt":
        _write_calibration_cache(traced, loaded, outputs["calibration_cache"])
    edited = engine_graph(
        traced,
        loaded.scales,
        loaded.plan,
        target=config.target,
        half=config.half,
        simplified=config.simplify,
    )
    write_graph(path, edited)
    images = _images(config, loaded, context)
    parity = _verify(config, path, loaded, images)
    metrics: dict[str, Any] = {"parity": vars(parity)}
    if config.nms != "none":
        metrics["detections"] = _append_nms(config, path, loaded, images)
    return {**metrics, "mib": path.stat().st_size / 2**20}


def _write_calibration_cache(graph: Any, loaded: Loaded, path: Path) -> None:
    """The ranges as TensorRT 10 and older take them beside a float graph.

    Such a graph has no place for bias corrections: they are in the one with Q/DQ alone.
    """
    from quantpipe.export.calibration_cache import (
        CalibrationCache,
        activation_ranges,
        write_calibration_cache,
    )

    assert loaded.scales is not None
    ranges = activation_ranges(graph, loaded.scales, loaded.plan)
    cache = CalibrationCache(version=8601, algorithm="EntropyCalibration2", amax=ranges)
    write_calibration_cache(path, cache)


def _images(config: ExportConfig, loaded: Loaded, context: Context) -> Any:
    """Images of the validation split, (B, 3, S, S), to verify the graph on."""
    import numpy as np

    from quantpipe.assembly.images import float_batches, sample

    dataset = open_split(config.data, "val", context)
    count = config.batch if isinstance(config.batch, int) else config.verify_images
    chosen = sample(len(dataset.images), count, context.seed)
    # A fixed batch may be larger than the data set.
    chosen = tuple(np.resize(chosen, count).tolist())
    (images,) = float_batches(
        dataset,
        chosen,
        image_size=loaded.checkpoint.image_size,
        batch_size=count,
        device="cpu",
    )
    return images.numpy()


def _append_nms(config: ExportConfig, path: Path, loaded: Loaded, images: Any) -> int:
    """Lets a verified graph suppress, as the rest of the pipeline would: how much it then finds.

    It comes after everything that edits the graph: suppression is in float32, without Q/DQ.
    """
    from quantpipe.assembly.detecting_graph import append_verified_nms
    from quantpipe.export.nms import NmsSettings

    assert config.nms != "none"
    settings = NmsSettings(**vars(config.suppression))
    names = loaded.checkpoint.class_names
    return append_verified_nms(path, settings, names, config.nms, images)


def _verify(config: ExportConfig, path: Path, loaded: Loaded, images: Any) -> Any:
    from quantpipe.assembly.images import predictor
    from quantpipe.export.verify import Tolerance, verify_against, verify_quantized

    reference = predictor(loaded.network, "cpu")
    if loaded.scales is None:
        limits = config.tolerance.half if config.half else config.tolerance.float32
        return verify_against(reference, path, images, Tolerance(**vars(limits)))
    return verify_quantized(
        predictor(loaded.quantized, "cpu"),
        reference,
        path,
        images,
        config.tolerance.int8_limit,
    )


STAGE = Stage(
    name="export",
    version=2,
    config_type=ExportConfig,
    inputs={
        "checkpoint": takes(ArtifactKind.CHECKPOINT),
        "scales": may_take(ArtifactKind.SCALES),
        "plan": may_take(ArtifactKind.PLAN),
    },
    outputs={
        "onnx": Output(kind=ArtifactKind.ONNX, file="model.onnx"),
        "calibration_cache": Output(
            kind=ArtifactKind.CALIBRATION_CACHE, file="calibration.cache", required=False
        ),
    },
    run=run,
    check=check,
    content=content,
)
