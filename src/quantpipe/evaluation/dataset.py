"""Accuracy on every image of a data set."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from quantpipe.data.batches import num_batches
from quantpipe.data.dataset import DetectionDataset
from quantpipe.data.loader import evaluation_batches
from quantpipe.data.network_input import as_array
from quantpipe.detector.input_specification import InputSpecification
from quantpipe.evaluation.accuracy import (
    PUBLISHED,
    Measured,
    Predictor,
    evaluate_predictor,
)
from quantpipe.evaluation.objects import Objects
from quantpipe.graph.suppression import Suppression
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
) -> Measured:
    """COCO average precision of a predictor on every image of a data set."""
    return evaluate_predictor(
        predict,
        as_array(specification),
        evaluation_batches(dataset, specification=specification, batch_size=batch_size),
        objects_of(dataset),
        image_sizes(dataset),
        suppression=suppression,
        num_batches=num_batches(len(dataset.images), batch_size),
        description=description,
        progress=progress,
    )


def image_sizes(dataset: DetectionDataset) -> dict[int, tuple[int, int]]:
    """Returns (width, height) of every image by its id."""
    return {record.image_id: (record.width, record.height) for record in dataset.images}


def objects_of(dataset: DetectionDataset) -> Objects:
    """Returns all objects of a data set, crowds too; images in its order."""
    records = dataset.images
    own = [record.boxes for record in records]
    crowds = [record.crowd_boxes for record in records]
    corners = np.concatenate([*own, *crowds, np.zeros((0, 4), dtype=np.float32)])
    # Of float32 corners the differences in float64, as a COCO file of them would hold.
    x1, y1, x2, y2 = corners.astype(np.float64).T
    crowd_corners = np.concatenate([*crowds, np.zeros((0, 4), dtype=np.float32)])
    areas = [record.areas for record in records]
    areas.append(np.prod(crowd_corners[:, 2:] - crowd_corners[:, :2], axis=1))
    labels = [record.labels for record in records] + [record.crowd_labels for record in records]
    return Objects(
        image_ids=np.array([record.image_id for record in records], dtype=np.int64),
        image=np.concatenate((_positions(own), _positions(crowds))),
        label=np.concatenate([*labels, np.zeros(0, dtype=np.int64)]).astype(np.intp),
        box=np.stack((x1, y1, x2 - x1, y2 - y1), axis=1),
        area=np.concatenate(areas).astype(np.float64),
        crowd=np.arange(len(corners)) >= len(corners) - len(crowd_corners),
        class_names=dataset.class_names,
    )


def _positions(boxes: Sequence[NDArray[np.float32]]) -> NDArray[np.intp]:
    return np.repeat(np.arange(len(boxes), dtype=np.intp), [len(one) for one in boxes])
