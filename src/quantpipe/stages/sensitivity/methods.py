"""Sensitivity methods for detectors: what of a network each of them looks at."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from quantpipe.data.batches import num_batches
from quantpipe.data.dataset import DetectionDataset
from quantpipe.data.loader import Batch, evaluation_batches
from quantpipe.data.network_input import network_input
from quantpipe.data.transforms import Framing
from quantpipe.detector.families.implementation import (
    DetectionLoss,
    RawPrediction,
    raw_outputs,
    raw_prediction,
)
from quantpipe.detector.input_specification import InputSpecification
from quantpipe.distributed.ranks import run_together
from quantpipe.evaluation.accuracy import detect
from quantpipe.evaluation.average_precision import MatchedDetections
from quantpipe.evaluation.coco_map import matched_detections
from quantpipe.evaluation.dataset import image_sizes, objects_of
from quantpipe.evaluation.image_detections import ImageDetections
from quantpipe.evaluation.network import predictor
from quantpipe.process_group import ProcessGroup
from quantpipe.progress import Progress, Silent
from quantpipe.quantization.operations import Operation
from quantpipe.quantization.output_error import OUTPUT_ERRORS, ErrorMeasure
from quantpipe.quantization.records import Record
from quantpipe.quantization.scale_cache import ScaleCache
from quantpipe.quantization.sensitivity.gradient import by_gradient
from quantpipe.quantization.sensitivity.measured import by_loss, by_map, by_output
from quantpipe.quantization.sensitivity.ranking import Method, RankingTask, rank_operations
from quantpipe.quantization.sensitivity.table import (
    Direction,
    SensitivityMethod,
    SensitivityTable,
)


class RankingBatch(NamedTuple):
    """Images to rank operations on.

    Attributes:
        images: (B, 3, H, W) as the network takes them, on its device.
        labeled: The same images as read, with their boxes.
        framings: The way back to original pixels.
    """

    images: Tensor
    labeled: Batch
    framings: list[Framing]


class LabeledPrediction(NamedTuple):
    """A prediction for B images and their boxes: (B, M, 4), and labels (B, M), -1 for none."""

    prediction: RawPrediction
    boxes: Tensor
    labels: Tensor


@dataclass(frozen=True, kw_only=True)
class RankingJob:
    """All that a process needs to rank along; whatever it holds can be pickled.

    Attributes:
        method: One of the four.
        direction: See :class:`~quantpipe.quantization.sensitivity.ranking.RankingTask`.
        network: Deployed, float, on the processor.
        scales: Its ranges.
        operations: To be ranked.
        dataset: The images.
        specification: What the network takes.
        batch_size: Images.
        loss: For ``loss``.
        output_error: For ``output`` and ``gradient``.
        num_projections: For ``gradient``.
        device: ``cpu`` or ``cuda``.
        seed: Of whatever is drawn.
        progress_folder: For what is measured.
    """

    method: SensitivityMethod
    direction: Direction
    network: nn.Module
    scales: ScaleCache
    operations: Sequence[Operation]
    dataset: DetectionDataset
    specification: InputSpecification
    batch_size: int
    loss: DetectionLoss | None
    output_error: ErrorMeasure
    num_projections: int
    device: str
    seed: int
    progress_folder: Path


def rank_together(
    job: RankingJob, progress: Progress, *, num_ranks: int, timeout_seconds: float
) -> SensitivityTable:
    """Ranks on ``num_ranks`` processes, with the result that one would have.

    Raises:
        MachineError: A rank died or no longer answers; names it.
    """
    return run_together(
        lambda processes: _rank(job, processes, progress),
        _rank_along,
        job,
        size=num_ranks,
        device=job.device,
        timeout_seconds=timeout_seconds,
    )


def _rank_along(processes: ProcessGroup, job: RankingJob) -> None:
    _rank(job, processes, Silent())


def _rank(job: RankingJob, processes: ProcessGroup, progress: Progress) -> SensitivityTable:
    device = f"cuda:{processes.local_rank}" if job.device == "cuda" else job.device
    method = ranking_method(
        job.method,
        dataset=job.dataset,
        loss=job.loss,
        output_error=job.output_error,
        num_projections=job.num_projections,
        device=device,
    )
    task = RankingTask(
        network=job.network.to(device),
        scales=job.scales,
        operations=job.operations,
        direction=job.direction,
        batches=ranking_batches(
            job.dataset, job.specification, batch_size=job.batch_size, device=device
        ),
        num_batches=num_batches(len(job.dataset.images), job.batch_size),
        batch_size=job.batch_size,
        processes=processes,
        seed=job.seed,
        progress=progress,
        progress_folder=job.progress_folder,
    )
    return rank_operations(job.method, method, task)


def ranking_batches(
    dataset: DetectionDataset,
    specification: InputSpecification,
    *,
    batch_size: int,
    device: str,
) -> Iterator[RankingBatch]:
    """Yields every image of a data set in order, not augmented."""
    for batch, framings in evaluation_batches(
        dataset, specification=specification, batch_size=batch_size
    ):
        images = network_input(batch.images.to(device), specification)
        yield RankingBatch(images, batch, framings)


def ranking_method(
    name: SensitivityMethod,
    *,
    dataset: DetectionDataset,
    loss: DetectionLoss | None,
    output_error: ErrorMeasure,
    num_projections: int,
    device: str,
) -> Method[RankingBatch]:
    """Returns a method by its name.

    Args:
        name: One of the four.
        dataset: The images, for ``map``.
        loss: For ``loss``.
        output_error: For ``output`` and ``gradient``.
        num_projections: For ``gradient``.
        device: Of the network.
    """
    error = OUTPUT_ERRORS[output_error]
    methods: Mapping[SensitivityMethod, Callable[[], Method[RankingBatch]]] = {
        "map": lambda: by_map(_detector(dataset, device), _matcher(dataset)),
        "loss": lambda: by_loss(labeled_prediction, partial(image_losses, _given(loss))),
        "output": lambda: by_output(_outputs, error),
        "gradient": lambda: by_gradient(_outputs, error, num_projections=num_projections),
    }
    return methods[name]()


def _given(loss: DetectionLoss | None) -> DetectionLoss:
    assert loss is not None, "the method 'loss' needs one"
    return loss


def _outputs(network: nn.Module, batch: RankingBatch) -> tuple[Tensor, Tensor]:
    return raw_outputs(network, batch.images)


def labeled_prediction(network: nn.Module, batch: RankingBatch) -> LabeledPrediction:
    """What a loss compares."""
    device = batch.images.device
    return LabeledPrediction(
        raw_prediction(network, batch.images),
        batch.labeled.boxes.to(device),
        batch.labeled.labels.to(device),
    )


def image_losses(
    loss: DetectionLoss, seen: LabeledPrediction, in_float: LabeledPrediction
) -> Tensor:
    """The loss of each image alone, (B,), divided by the sum of its own target scores.

    Anchors are assigned by the float network's prediction.
    """
    values = [
        loss(
            seen.prediction.of_image(row),
            seen.boxes[row : row + 1],
            seen.labels[row : row + 1],
            assigned_by=in_float.prediction.of_image(row),
        ).total
        for row in range(len(seen.boxes))
    ]
    return torch.stack(values)


def _detector(
    dataset: DetectionDataset, device: str
) -> Callable[[nn.Module, RankingBatch], Record]:
    sizes = image_sizes(dataset)

    def run(network: nn.Module, batch: RankingBatch) -> Record:
        found = detect(
            predictor(network, device),
            lambda _: batch.images.cpu().numpy(),
            [(batch.labeled, batch.framings)],
            sizes,
        )
        return {
            "image_ids": np.array([image.image_id for image in found]),
            "counts": np.array([len(image.scores) for image in found]),
            "boxes": np.concatenate([image.boxes for image in found]),
            "scores": np.concatenate([image.scores for image in found]),
            "labels": np.concatenate([image.labels for image in found]),
        }

    return run


def _matcher(dataset: DetectionDataset) -> Callable[[Sequence[Record]], MatchedDetections]:
    objects = objects_of(dataset)

    def match(records: Sequence[Record]) -> MatchedDetections:
        images = [image for record in records for image in _images(record)]
        return matched_detections(images, objects)

    return match


def _images(record: Mapping[str, Any]) -> Iterator[ImageDetections]:
    ends = np.cumsum(record["counts"])
    for image_id, end, count in zip(record["image_ids"], ends, record["counts"], strict=True):
        part = slice(end - count, end)
        yield ImageDetections(
            image_id=int(image_id),
            boxes=record["boxes"][part],
            scores=record["scores"][part],
            labels=record["labels"][part],
        )
