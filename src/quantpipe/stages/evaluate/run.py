"""Accuracy, latency and size of every variant, measured side by side."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from quantpipe.assembly.networks import Loaded, deployed, load
from quantpipe.core.artifact import Artifact, ArtifactKind
from quantpipe.core.stage import Context, Inputs, Metrics, Outputs
from quantpipe.data.batches import float_batches
from quantpipe.data.dataset import DetectionDataset
from quantpipe.data.images import read_image
from quantpipe.engines.benchmark import Latency
from quantpipe.engines.fallback import fallbacks
from quantpipe.engines.registry import read_header
from quantpipe.errors import ConfigurationError, DataError, QuantpipeError
from quantpipe.evaluation.accuracy import ImageDetections, Suppression, agreement
from quantpipe.evaluation.coco_map import MapResult
from quantpipe.evaluation.dataset import measure
from quantpipe.export.onnx_graph import read_graph
from quantpipe.files import write_json
from quantpipe.report.pictures import detection_picture
from quantpipe.settings.data import open_split
from quantpipe.stages.evaluate.config import (
    COMPANIONS,
    GRAPH,
    REFERENCE,
    SCALES,
    EvaluateConfig,
    companion,
)
from quantpipe.stages.evaluate.divergence import diverged_operation
from quantpipe.stages.evaluate.parity import measure_parity, require_parity
from quantpipe.stages.evaluate.speed import Speed
from quantpipe.stages.evaluate.variants import OpenVariant, opened


def run(config: EvaluateConfig, inputs: Inputs, outputs: Outputs, context: Context) -> Metrics:
    """Measures every variant, and compares it with the network it came from where that is wired."""
    dataset = open_split(config.data, "val", context)
    artifacts = {name: artifact for name, artifact in inputs.items() if companion(name) is None}
    with opened(artifacts, context) as variants:
        accuracy = {n: _accuracy(config, v, dataset, context) for n, v in variants.items()}
        parity = {
            name: _parity(config, variant, inputs, accuracy[name][1], dataset, context)
            for name, variant in variants.items()
        }
        speed = Speed(config.latency_batches, config.num_runs, context.seed, context.progress)
        latency = speed.latency(variants, num_warmup=config.num_warmup)
        fps = speed.throughput(variants, num_queued=config.num_queued)
        reasons = {name: _fallbacks(v, _path(inputs, GRAPH + name)) for name, v in variants.items()}
    detections = {name: found for name, (_, found) in accuracy.items()}
    agreements = _agreements(detections, dataset)
    measured = [
        _measurement(variant, accuracy[name][0], latency[name])
        | {
            "agreement": agreements.get(name),
            "fps": fps.get(name, {}),
            "parity": parity[name],
            "fallbacks": reasons[name],
        }
        for name, variant in variants.items()
    ]
    write_json(outputs["metrics"], {"variants": measured})
    write_json(outputs["examples"], _examples(config.num_examples, dataset, detections))
    return {"variants": measured}


def _accuracy(
    config: EvaluateConfig, variant: OpenVariant, dataset: DetectionDataset, context: Context
) -> tuple[MapResult, list[ImageDetections]]:

    return measure(
        variant.predict,
        dataset,
        image_size=variant.image_size,
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
        multi_label=True,
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
    inputs: Inputs,
    found: Sequence[ImageDetections],
    dataset: DetectionDataset,
    context: Context,
) -> dict[str, Any] | None:
    """The variant beside the network it came from; None where that is not wired."""
    graph, network, scales, plan = (_path(inputs, prefix + variant.name) for prefix in COMPANIONS)
    if network is None:
        return None
    if variant.precision == "int8" and scales is None:
        raise ConfigurationError(
            "an INT8 engine is compared with a fake-quantized network",
            path=f"{context.step}.inputs.{SCALES}{variant.name}",
            hint="wire its scales",
        )
    loaded = deployed(load(network, scales=scales, plan=plan, device=context.device))
    measured = measure_parity(
        variant,
        loaded,
        found,
        dataset,
        config.parity,
        batch_size=config.accuracy_batch,
        suppression=_suppression(config),
        device=context.device,
        progress=context.progress,
        description=f"{context.step}: network of {variant.name}",
    )
    if measured.fault is not None:
        diverged = _parted_at(config, inputs[variant.name], graph, loaded, dataset, context)
        require_parity(variant.name, measured, diverged)
    return measured.as_json()


def _parted_at(
    config: EvaluateConfig,
    engine: Artifact,
    graph: Path | None,
    loaded: Loaded,
    dataset: DetectionDataset,
    context: Context,
) -> str | None:

    if graph is None or engine.kind is not ArtifactKind.ENGINE:
        return None
    context.progress.note(f"{context.step}: looking for the first operation that differs")
    size = loaded.checkpoint.image_size
    (images,) = float_batches(dataset, (0,), image_size=size, batch_size=1, device="cpu")
    try:
        with tempfile.TemporaryDirectory() as folder:
            return diverged_operation(
                read_header(engine.path).settings,
                graph,
                loaded,
                images.numpy(),
                int8_limit=config.parity.int8_limit,
                folder=Path(folder),
            )
    except QuantpipeError as error:  # that the engine differs is what has to be told
        context.progress.note(f"{context.step}: it could not be found: {error}")
        return None


def _path(inputs: Inputs, name: str) -> Path | None:
    return inputs[name].path if name in inputs else None


def _fallbacks(variant: OpenVariant, graph: Path | None) -> list[dict[str, str]]:
    """The float layers of an INT8 engine and why, as far as its graph is known."""
    if graph is None or variant.precision != "int8":
        return []
    return [vars(found) for found in fallbacks(variant.engine, variant.layers, read_graph(graph))]


def _measurement(
    variant: OpenVariant, accuracy: MapResult, latency: Mapping[int, Latency]
) -> dict[str, Any]:
    return {
        "name": variant.name,
        "precision": variant.precision,
        "engine": variant.engine,
        "image_size": variant.image_size,
        "map": accuracy.map,
        "map50": accuracy.map50,
        "per_class": dict(accuracy.per_class),
        "latency": {
            str(batch): {"p50": times.p50, "p95": times.p95, "p99": times.p99}
            for batch, times in latency.items()
        },
        "size_mb": variant.mib,
        "float_layers": variant.num_float_layers,
    }


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
