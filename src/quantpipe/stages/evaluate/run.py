"""Accuracy, latency and size of every variant, measured side by side."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from quantpipe.core.stage import Context, Inputs, Metrics, Outputs
from quantpipe.data.batches import float_batches
from quantpipe.data.dataset import DetectionDataset
from quantpipe.data.images import read_image
from quantpipe.engines.contract import Fallback
from quantpipe.engines.fallback import fallbacks
from quantpipe.engines.registry import read_header
from quantpipe.errors import DataError, QuantpipeError
from quantpipe.evaluation.accuracy import Measured, agreement
from quantpipe.evaluation.coco_map import MapResult
from quantpipe.evaluation.dataset import measure
from quantpipe.evaluation.image_detections import ImageDetections
from quantpipe.export.onnx_graph import read_graph
from quantpipe.files import write_json
from quantpipe.graph.suppression import Suppression
from quantpipe.quantization.model import Model, deployed, load_model
from quantpipe.quantization.number_format import is_quantized
from quantpipe.report.pictures import detection_picture
from quantpipe.report.variant import Parity, Variant
from quantpipe.settings.data import open_split
from quantpipe.stages.evaluate.config import REFERENCE, VARIANTS, EvaluateConfig
from quantpipe.stages.evaluate.divergence import diverged_operation
from quantpipe.stages.evaluate.parity import measure_parity, parity_error
from quantpipe.stages.evaluate.speed import Speed
from quantpipe.stages.evaluate.variants import BuiltFrom, OpenVariant, opened


def run(config: EvaluateConfig, inputs: Inputs, outputs: Outputs, context: Context) -> Metrics:
    """Measures every variant, and compares each engine with the network it came from."""
    dataset = open_split(config.data, "val", context)
    artifacts = {name.removeprefix(f"{VARIANTS}."): found for name, found in inputs.items()}
    with opened(artifacts, context) as variants:
        accuracy = {n: _accuracy(config, v, dataset, context) for n, v in variants.items()}
        parity = {
            name: _parity(config, variant, accuracy[name].detections, dataset, context)
            for name, variant in variants.items()
        }
        speed = Speed(config.latency_batches, config.num_runs, context.seed, context.progress)
        latency = speed.latency(variants, num_warmup=config.num_warmup)
        fps = speed.throughput(variants, latency, num_queued=config.num_queued)
        reasons = {name: _fallbacks(variant) for name, variant in variants.items()}
    detections = {name: found.detections for name, found in accuracy.items()}
    agreements = _agreements(detections, dataset)
    measured = [
        replace(
            _record(variant, accuracy[name].result),
            agreement=agreements.get(name),
            latency_ms=latency[name],
            fps=fps[name],
            parity=parity[name],
            fallbacks=reasons[name],
        )
        for name, variant in variants.items()
    ]
    metrics = {"variants": [asdict(variant) for variant in measured]}
    write_json(outputs["metrics"], metrics)
    write_json(outputs["examples"], _examples(config.num_examples, dataset, detections))
    return metrics


def _accuracy(
    config: EvaluateConfig, variant: OpenVariant, dataset: DetectionDataset, context: Context
) -> Measured:
    return measure(
        variant.predict,
        dataset,
        specification=variant.specification,
        batch_size=config.accuracy_batch,
        progress=context.progress,
        description=f"{context.step}: {variant.name}",
        suppression=_suppression(config),
    )


def _suppression(config: EvaluateConfig) -> Suppression:
    return Suppression(
        confidence=config.confidence,
        iou=config.iou,
        max_detections=config.max_detections,
    )


def _agreements(
    detections: Mapping[str, Sequence[ImageDetections]], dataset: DetectionDataset
) -> dict[str, float]:
    """Average precision of every variant against what the float one is confident of.

    Nothing where there is no float variant, or it is confident of nothing.
    """
    reference = detections.get(REFERENCE)
    if reference is None:
        return {}
    try:
        return {
            name: agreement(reference, found, dataset.class_names).map
            for name, found in detections.items()
        }
    except DataError:
        return {}


def _parity(
    config: EvaluateConfig,
    variant: OpenVariant,
    found: Sequence[ImageDetections],
    dataset: DetectionDataset,
    context: Context,
) -> Parity | None:
    """The engine beside the network it came from; None where a network itself was measured."""
    if variant.built_from is None:
        return None
    quantized = is_quantized(variant.precision)
    model = deployed(load_model(variant.built_from.model, context.device, quantized=quantized))
    parity, fault = measure_parity(
        variant,
        model,
        found,
        dataset,
        config.parity,
        batch_size=config.accuracy_batch,
        suppression=_suppression(config),
        device=context.device,
        progress=context.progress,
        description=f"{context.step}: network of {variant.name}",
    )
    if fault is not None:
        diverged = _diverged_at(config, variant.built_from, model, dataset, context)
        raise parity_error(variant.name, parity.reference, fault, diverged)
    return parity


def _diverged_at(
    config: EvaluateConfig,
    built_from: BuiltFrom,
    model: Model,
    dataset: DetectionDataset,
    context: Context,
) -> str | None:
    context.progress.note(f"{context.step}: looking for the first operation that differs")
    (images,) = float_batches(
        dataset, (0,), specification=model.checkpoint.input, batch_size=1, device="cpu"
    )
    try:
        with tempfile.TemporaryDirectory() as folder:
            return diverged_operation(
                read_header(built_from.engine).settings,
                built_from.graph,
                model,
                images.numpy(),
                int8_limit=config.parity.int8_limit,
                folder=Path(folder),
            )
    except (QuantpipeError, OSError) as error:  # that the engine differs is what has to be told
        context.progress.note(f"{context.step}: it could not be found: {error}")
        return None


def _fallbacks(variant: OpenVariant) -> tuple[Fallback, ...]:
    """The float layers of a quantized engine, and why."""
    if variant.built_from is None or not is_quantized(variant.precision):
        return ()
    graph = read_graph(variant.built_from.graph)
    return tuple(fallbacks(variant.engine, variant.layers, graph))


def _record(variant: OpenVariant, accuracy: MapResult) -> Variant:
    return Variant(
        name=variant.name,
        precision=variant.precision,
        engine=variant.engine,
        image_size=variant.specification.shown,
        map=accuracy.map,
        map50=accuracy.map50,
        per_class=accuracy.per_class,
        size_mb=variant.mib,
        float_layers=variant.num_float_layers,
    )


def _examples(
    count: int, dataset: DetectionDataset, detections: Mapping[str, Sequence[ImageDetections]]
) -> dict[str, Any]:
    """A few images with each variant's detections drawn on them."""
    busiest = sorted(range(len(dataset.images)), key=lambda i: -len(dataset.images[i].boxes))
    chosen = sorted(busiest[: count * 4 : 4])
    return {
        "images": [
            {
                "name": dataset.images[index].path.name,
                "pictures": {
                    name: detection_picture(
                        read_image(dataset.images[index].path),
                        found[index].boxes,
                        found[index].scores,
                        found[index].labels,
                        dataset.class_names,
                    )
                    for name, found in detections.items()
                },
            }
            for index in chosen
        ]
    }
