"""Accuracy on every image of a data set."""

from __future__ import annotations

from quantpipe.data.batches import num_batches
from quantpipe.data.dataset import DetectionDataset
from quantpipe.data.loader import evaluation_batches
from quantpipe.data.network_input import as_array
from quantpipe.detector.input_specification import InputSpecification
from quantpipe.evaluation.accuracy import (
    PUBLISHED,
    ImageDetections,
    Predictor,
    Suppression,
    evaluate_predictor,
)
from quantpipe.evaluation.coco_map import MapResult
from quantpipe.progress import Progress


def measure(
    predict: Predictor,
    dataset: DetectionDataset,
    *,
    specification: InputSpecification,
    batch_size: int,
    progress: Progress,
    description: str,
    suppression: Suppression = PUBLISHED,
    by_size: bool = False,
) -> tuple[MapResult, list[ImageDetections]]:
    """COCO average precision of a predictor on every image of a data set."""
    return evaluate_predictor(
        predict,
        as_array(specification),
        evaluation_batches(dataset, specification=specification, batch_size=batch_size),
        dataset.coco_ground_truth(),
        dataset.category_ids,
        suppression=suppression,
        by_size=by_size,
        num_batches=num_batches(len(dataset.images), batch_size),
        description=description,
        progress=progress,
    )
