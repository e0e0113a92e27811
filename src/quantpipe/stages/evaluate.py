"""Accuracy, latency and size of every variant, measured side by side."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from quantpipe.core.artifact import Artifact, ArtifactKind
from quantpipe.core.schema import Between
from quantpipe.core.stage import Context, Input, Inputs, Metrics, Output, Outputs, Stage
from quantpipe.errors import ConfigurationError, nearest
from quantpipe.files import write_json
from quantpipe.settings.data import DataSettings, check_data, data_content, open_split
from quantpipe.settings.recipe import BatchSize, Count, Fraction

if TYPE_CHECKING:
    from quantpipe.assembly.variants import OpenVariant
    from quantpipe.data.dataset import DetectionDataset
    from quantpipe.engines.benchmark import Latency
    from quantpipe.evaluation.accuracy import ImageDetections, Predictor, Suppression
    from quantpipe.evaluation.coco_map import MapResult

_PARITY = "parity_"
_REFERENCE = "fp32"
_MEASURABLE = frozenset({ArtifactKind.ENGINE, ArtifactKind.CHECKPOINT})
_GRAPH = frozenset({ArtifactKind.ONNX})


@dataclass(frozen=True, kw_only=True)
class EvaluateConfig:
    """Settings of the stage; see ``conf/stage/evaluate.yaml``."""

    data: DataSettings
    confidence: Fraction
    iou: Fraction
    max_detections: Annotated[int, Between(1, 10_000)]
    accuracy_batch: BatchSize
    latency_batches: Annotated[tuple[int, ...], Between(1, 1024)]
    num_warmup: Count
    num_runs: Annotated[int, Between(1)]
    num_parity_images: Annotated[int, Between(1)]
    num_examples: Annotated[int, Between(0, 50)]


def check_wiring(
    config: object,  # noqa: ARG001
    kinds: Mapping[str, ArtifactKind],
) -> None:
    """Refuses a graph as a variant, a variant as a graph, and a graph without its variant."""
    variants = {name for name in kinds if not name.startswith(_PARITY)}
    for name, kind in kinds.items():
        wanted = _MEASURABLE if name in variants else _GRAPH
        if kind not in wanted:
            names = " or ".join(sorted(wanted))
            raise ConfigurationError(f"is wired to a {kind}, not to a {names}", path=name)
        variant = name.removeprefix(_PARITY)
        if variant not in variants:
            hint = nearest(variant, variants)
            raise ConfigurationError(f"there is no variant {variant!r}", path=name, hint=hint)


def content(config: EvaluateConfig, memo: Path) -> Mapping[str, Any]:
    """The images, and the machine whose speed is measured."""
    from quantpipe.engines.hardware import nvidia_gpu, processor

    return {
        "data": data_content(config.data, ("val",), memo),
        "hardware": [processor(), len(os.sched_getaffinity(0)), nvidia_gpu()],
        "libraries": {name: version(name) for name in ("torch", "onnxruntime", "pycocotools")},
    }


def run(config: EvaluateConfig, inputs: Inputs, outputs: Outputs, context: Context) -> Metrics:
    """Measures every variant; inputs named ``parity_<variant>`` are the graphs they came from."""
    from quantpipe.assembly.variants import opened

    dataset = open_split(config.data, "val", context)
    artifacts = {n: a for n, a in inputs.items() if not n.startswith(_PARITY)}
    graphs = {n: inputs[_PARITY + n] for n in artifacts if _PARITY + n in inputs}
    with opened(artifacts, context) as variants:
        accuracy = {n: _accuracy(config, v, dataset, context) for n, v in variants.items()}
        parity = {
            name: _parity(config, variants[name], graph, accuracy[name][1], dataset, context)
            for name, graph in graphs.items()
        }
        latency = _latency(config, variants, context)
    detections = {name: found for name, (_, found) in accuracy.items()}
    agreements = _agreements(detections, dataset)
    measured = [
        _measurement(
            variant, accuracy[name][0], agreements.get(name), latency[name], parity.get(name)
        )
        for name, variant in variants.items()
    ]
    write_json(outputs["metrics"], {"variants": measured})
    write_json(outputs["examples"], _examples(config.num_examples, dataset, detections))
    return {"variants": measured}


def _accuracy(
    config: EvaluateConfig, variant: OpenVariant, dataset: DetectionDataset, context: Context
) -> tuple[MapResult, list[ImageDetections]]:
    from quantpipe.assembly.images import measure

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
    from quantpipe.evaluation.accuracy import Suppression

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
    from quantpipe.errors import DataError
    from quantpipe.evaluation.accuracy import agreement

    reference = detections.get(_REFERENCE)
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
    graph: Artifact,
    found: Sequence[ImageDetections],
    dataset: DetectionDataset,
    context: Context,
) -> dict[str, float]:
    """The engine against its own graph, run as written: raw outputs, and mAP on the same images."""
    import numpy as np

    from quantpipe.assembly.images import float_batches, measure
    from quantpipe.evaluation.accuracy import score
    from quantpipe.export.verify import compare, unoptimised

    few = dataset.subset(range(min(config.num_parity_images, len(dataset.images))))
    as_written = _any_batch(unoptimised(graph.path), graph.path)
    size, batch = variant.image_size, config.accuracy_batch
    result, _ = measure(
        as_written,
        few,
        image_size=size,
        batch_size=batch,
        progress=context.progress,
        description=f"{context.step}: {variant.name} as written",
        suppression=_suppression(config),
    )
    differences = [
        compare(as_written(images.numpy()), variant.predict(images.numpy())).max_abs
        for images in float_batches(
            few, range(min(2, len(few.images))), image_size=size, batch_size=batch, device="cpu"
        )
    ]
    same = score(found[: len(few.images)], few.coco_ground_truth(), few.category_ids, by_size=False)
    return {"max_abs": float(np.max(differences)), "map_delta": same.map - result.map}


def _any_batch(predict: Predictor, path: Path) -> Predictor:
    """A graph of a fixed batch as a function of any number of images."""
    from quantpipe.engines.batching import run_in_batches
    from quantpipe.export.onnx_graph import read_graph

    batch = read_graph(path).graph.input[0].type.tensor_type.shape.dim[0].dim_value
    return predict if batch == 0 else lambda images: run_in_batches(predict, images, (batch,))


def _latency(
    config: EvaluateConfig, variants: Mapping[str, OpenVariant], context: Context
) -> dict[str, dict[int, Latency]]:
    """All variants in turn at each batch size, so that a busy moment hits all of them."""
    import numpy as np

    from quantpipe.engines.benchmark import measure_latency

    timed: dict[str, dict[int, Latency]] = {name: {} for name in variants}
    rng = np.random.default_rng(context.seed)
    for batch in config.latency_batches:
        runs = {}
        for name, variant in variants.items():
            shape = (batch, 3, variant.image_size, variant.image_size)
            images = rng.random(shape, dtype=np.float32)
            runs[name] = lambda predict=variant.predict, images=images: predict(images)
        found = measure_latency(
            runs,
            num_warmup=config.num_warmup,
            num_runs=config.num_runs,
            progress=context.progress,
        )
        for name, latency in found.items():
            timed[name][batch] = latency
    return timed


def _measurement(
    variant: OpenVariant,
    accuracy: MapResult,
    agreement: float | None,
    latency: Mapping[int, Latency],
    parity: Mapping[str, float] | None,
) -> dict[str, Any]:
    return {
        "name": variant.name,
        "precision": variant.precision,
        "engine": variant.engine,
        "image_size": variant.image_size,
        "map": accuracy.map,
        "map50": accuracy.map50,
        "agreement": agreement,
        "per_class": dict(accuracy.per_class),
        "latency": {
            str(batch): {"p50": times.p50, "p95": times.p95, "p99": times.p99}
            for batch, times in latency.items()
        },
        "size_mb": variant.mib,
        "float_layers": variant.num_float_layers,
        "parity": None if parity is None else dict(parity),
    }


def _examples(
    count: int, dataset: DetectionDataset, detections: Mapping[str, Sequence[ImageDetections]]
) -> dict[str, Any]:
    """A few images with each variant's detections drawn on them."""
    from quantpipe.data.images import read_image
    from quantpipe.report.pictures import detection_picture

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


STAGE = Stage(
    name="evaluate",
    version=2,
    config_type=EvaluateConfig,
    companion_prefix=_PARITY,
    any_inputs=Input(kinds=_MEASURABLE | _GRAPH),
    outputs={
        "metrics": Output(kind=ArtifactKind.METRICS, file="metrics.json"),
        "examples": Output(kind=ArtifactKind.EXAMPLES, file="examples.json"),
    },
    run=run,
    check=lambda config: check_data(config.data),
    check_wiring=check_wiring,
    content=content,
)
