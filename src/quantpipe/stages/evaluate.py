"""Accuracy, latency and size of every variant, measured side by side."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from quantpipe.core.artifact import Artifact, ArtifactKind
from quantpipe.core.schema import Between
from quantpipe.core.stage import Context, Input, Inputs, Metrics, Output, Outputs, Stage
from quantpipe.errors import ConfigurationError, QuantpipeError, nearest
from quantpipe.files import write_json
from quantpipe.installed import installed_versions
from quantpipe.settings.data import DataSettings, check_data, data_content, open_split
from quantpipe.settings.parity import ParitySettings
from quantpipe.settings.recipe import BatchSize, Count, Fraction

if TYPE_CHECKING:
    from quantpipe.assembly.networks import Loaded
    from quantpipe.assembly.variants import OpenVariant
    from quantpipe.data.dataset import DetectionDataset
    from quantpipe.engines.benchmark import Latency
    from quantpipe.evaluation.accuracy import ImageDetections, Suppression
    from quantpipe.evaluation.coco_map import MapResult

_GRAPH, _NETWORK, _SCALES, _PLAN = "graph_", "network_", "scales_", "plan_"
_REFERENCE = "fp32"
_MEASURABLE = frozenset({ArtifactKind.ENGINE, ArtifactKind.CHECKPOINT})
# What may be wired beside a variant: its graph, and the network it came from.
COMPANIONS: Mapping[str, ArtifactKind] = {
    _GRAPH: ArtifactKind.ONNX,
    _NETWORK: ArtifactKind.CHECKPOINT,
    _SCALES: ArtifactKind.SCALES,
    _PLAN: ArtifactKind.PLAN,
}


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
    num_queued: Annotated[int, Between(1)]
    parity: ParitySettings
    num_examples: Annotated[int, Between(0, 50)]


def check_wiring(
    config: object,  # noqa: ARG001
    kinds: Mapping[str, ArtifactKind],
) -> None:
    """Refuses a wrong kind, and what stands beside no variant or beside no network."""
    variants = {name for name in kinds if _companion(name) is None}
    for name, kind in kinds.items():
        prefix = _companion(name)
        wanted = _MEASURABLE if prefix is None else {COMPANIONS[prefix]}
        if kind not in wanted:
            names = " or ".join(sorted(wanted))
            raise ConfigurationError(f"is wired to a {kind}, not to a {names}", path=name)
        variant = name.removeprefix(prefix or "")
        if variant not in variants:
            hint = nearest(variant, variants)
            raise ConfigurationError(f"there is no variant {variant!r}", path=name, hint=hint)
        if prefix in (_SCALES, _PLAN) and _NETWORK + variant not in kinds:
            raise ConfigurationError(
                "means nothing without the network", path=name, hint=f"wire {_NETWORK}{variant} too"
            )


def _companion(name: str) -> str | None:
    return next((prefix for prefix in COMPANIONS if name.startswith(prefix)), None)


def content(config: EvaluateConfig, memo: Path) -> Mapping[str, Any]:
    """The images, and the machine whose speed is measured."""
    from quantpipe.engines.hardware import nvidia_gpu, processor

    return {
        "data": data_content(config.data, ("val",), memo),
        "hardware": [processor(), len(os.sched_getaffinity(0)), nvidia_gpu()],
        "libraries": installed_versions(("torch", "onnxruntime", "pycocotools")),
    }


def run(config: EvaluateConfig, inputs: Inputs, outputs: Outputs, context: Context) -> Metrics:
    """Measures every variant, and compares it with the network it came from where that is wired."""
    from quantpipe.assembly.speed import Speed
    from quantpipe.assembly.variants import opened

    dataset = open_split(config.data, "val", context)
    artifacts = {name: artifact for name, artifact in inputs.items() if _companion(name) is None}
    with opened(artifacts, context) as variants:
        accuracy = {n: _accuracy(config, v, dataset, context) for n, v in variants.items()}
        parity = {
            name: _parity(config, variant, inputs, accuracy[name][1], dataset, context)
            for name, variant in variants.items()
        }
        speed = Speed(config.latency_batches, config.num_runs, context.seed, context.progress)
        latency = speed.latency(variants, num_warmup=config.num_warmup)
        fps = speed.throughput(variants, num_queued=config.num_queued)
        reasons = {
            name: _fallbacks(v, _path(inputs, _GRAPH + name)) for name, v in variants.items()
        }
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
    inputs: Inputs,
    found: Sequence[ImageDetections],
    dataset: DetectionDataset,
    context: Context,
) -> dict[str, Any] | None:
    """The variant beside the network it came from; None where that is not wired."""
    from quantpipe.assembly.networks import deployed, load
    from quantpipe.assembly.parity import measure_parity, require_parity

    graph, network, scales, plan = (_path(inputs, prefix + variant.name) for prefix in COMPANIONS)
    if network is None:
        return None
    if variant.precision == "int8" and scales is None:
        raise ConfigurationError(
            "an INT8 engine is compared with a fake-quantized network",
            path=f"{context.step}.inputs.{_SCALES}{variant.name}",
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
        parted = _parted_at(config, inputs[variant.name], graph, loaded, dataset, context)
        require_parity(variant.name, measured, parted)
    return measured.as_json()


def _parted_at(
    config: EvaluateConfig,
    engine: Artifact,
    graph: Path | None,
    loaded: Loaded,
    dataset: DetectionDataset,
    context: Context,
) -> str | None:
    from quantpipe.assembly.images import float_batches
    from quantpipe.assembly.parted_operation import parted_operation
    from quantpipe.engines.engine_file import read_header

    if graph is None or engine.kind is not ArtifactKind.ENGINE:
        return None
    context.progress.note(f"{context.step}: looking for the first operation that differs")
    size = loaded.checkpoint.image_size
    (images,) = float_batches(dataset, (0,), image_size=size, batch_size=1, device="cpu")
    try:
        with tempfile.TemporaryDirectory() as folder:
            return parted_operation(
                read_header(engine.path),
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
    from quantpipe.engines.fallback import fallbacks
    from quantpipe.export.onnx_graph import read_graph

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
    version=3,
    config_type=EvaluateConfig,
    companion_prefixes=tuple(COMPANIONS),
    any_inputs=Input(kinds=_MEASURABLE | frozenset(COMPANIONS.values())),
    outputs={
        "metrics": Output(kind=ArtifactKind.METRICS, file="metrics.json"),
        "examples": Output(kind=ArtifactKind.EXAMPLES, file="examples.json"),
    },
    run=run,
    check=lambda config: check_data(config.data),
    check_wiring=check_wiring,
    content=content,
)
