"""The ONNX graph of a network: float, FP16, or with the Q/DQ pairs of its scale cache."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from quantpipe.core.stage import Context, Inputs, Metrics, Outputs
from quantpipe.data.batches import float_batches, sample
from quantpipe.engines.registry import engine_spec
from quantpipe.engines.tensorrt.calibration_cache import (
    CalibrationCache,
    activation_ranges,
    write_calibration_cache,
)
from quantpipe.evaluation.network import predictor
from quantpipe.export.engine_graph import engine_graph
from quantpipe.export.onnx_graph import export_float, read_graph, write_graph
from quantpipe.export.verify import verify_against, verify_quantized
from quantpipe.quantization.model import Model, deployed, load_model, without_ranges
from quantpipe.quantization.model_files import CALIBRATION_CACHE
from quantpipe.quantization.precision_plan import PrecisionPlan
from quantpipe.quantization.scale_cache import ScaleCache
from quantpipe.settings.data import open_split
from quantpipe.settings.engine import resolved_opset
from quantpipe.stages.export.config import (
    ExportConfig,
)
from quantpipe.stages.export.suppression import append_verified_nms


def run(config: ExportConfig, inputs: Inputs, outputs: Outputs, context: Context) -> Metrics:
    """Traces the folded network, places Q/DQ, simplifies, and verifies before it is published."""
    given = inputs["model"].path
    model = deployed(load_model(given, "cpu", quantized=config.quantized))
    scales = model.require_scales() if config.quantized else None
    path = outputs["graph"]
    export_float(
        model.network,
        path,
        image_size=model.checkpoint.input.size,
        batch=config.batch,
        opset=resolved_opset(config.opset, config.target),
    )
    traced = read_graph(path)
    if scales is not None and config.ranges == "calibration_cache":
        _write_calibration_cache(traced, scales, model.plan, path.with_name(CALIBRATION_CACHE))
        model = without_ranges(model)
    edited = engine_graph(
        traced,
        model.scales,
        model.plan,
        placement=engine_spec(config.target).placement,
        signed_input=model.checkpoint.input.signed,
        half=config.half,
        simplified=config.simplify,
    )
    write_graph(path, edited)
    images = _images(config, model, context)
    parity = _verify(config, path, model, images)
    metrics: dict[str, Any] = {"parity": vars(parity)}
    if config.nms != "none":
        metrics["detections"] = _append_nms(config, path, model, images)
    return {**metrics, "mib": path.stat().st_size / 2**20}


def _write_calibration_cache(
    graph: Any, scales: ScaleCache, plan: PrecisionPlan | None, path: Path
) -> None:
    """The ranges as TensorRT 10 and older take them beside a float graph.

    Such a graph has no place for bias corrections: they are in the one with Q/DQ alone.
    """
    ranges = activation_ranges(graph, scales, plan)
    cache = CalibrationCache(version=8601, algorithm="EntropyCalibration2", amax=ranges)
    write_calibration_cache(path, cache)


def _images(config: ExportConfig, model: Model, context: Context) -> Any:
    """Images of the validation split, (B, 3, H, W), to verify the graph on."""
    dataset = open_split(config.data, "val", context)
    count = config.batch if isinstance(config.batch, int) else config.verify_images
    chosen = sample(len(dataset.images), count, context.seed)
    # A fixed batch may be larger than the data set.
    chosen = tuple(np.resize(chosen, count).tolist())
    (images,) = float_batches(
        dataset,
        chosen,
        specification=model.checkpoint.input,
        batch_size=count,
        device="cpu",
    )
    return images.numpy()


def _append_nms(config: ExportConfig, path: Path, model: Model, images: Any) -> int:
    """Lets a verified graph suppress, as the rest of the pipeline would: how much it then finds.

    It comes after everything that edits the graph: suppression is in float32, without Q/DQ.
    """
    assert config.nms != "none"
    names = model.checkpoint.class_names
    return append_verified_nms(path, config.suppression, names, config.nms, images)


def _verify(config: ExportConfig, path: Path, model: Model, images: Any) -> Any:
    reference = predictor(model.network, "cpu")
    if model.scales is None:
        limits = config.tolerance.half if config.half else config.tolerance.fp32
        return verify_against(reference, path, images, limits)
    return verify_quantized(
        predictor(model.quantized, "cpu"),
        reference,
        path,
        images,
        config.tolerance.int8_limit,
    )
