"""Accuracy of anything that maps images to predictions, and agreement between two of them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from quantpipe.errors import DataError
from quantpipe.evaluation.coco_map import CocoEvaluator, MapResult
from quantpipe.evaluation.postprocess import detections
from quantpipe.progress import Progress, Silent

Predictor = Callable[[NDArray[np.float32]], NDArray[np.float32]]
"""Images (B, 3, H, W), float32, as a network takes them, to predictions (B, A, 5 + C)."""

Prepare = Callable[[Any], NDArray[np.float32]]
"""Images of a batch as they are read, (B, 3, H, W) uint8 RGB, to what a network takes."""


class ImageBatch(Protocol):
    """What is read of a batch: arrays, or tensors on the CPU."""

    @property
    def images(self) -> Any:
        """(B, 3, H, W) uint8 RGB."""

    @property
    def image_ids(self) -> Any:
        """(B,) ids as in the ground truth."""


class BoxInverse(Protocol):
    """What is read of how an image was resized and padded: the way back."""

    def inverse(self, boxes: NDArray[np.float32], /) -> NDArray[np.float32]:
        """(n, 4) x1, y1, x2, y2 in pixels of the input to original pixels."""
        ...


@dataclass(frozen=True, kw_only=True, eq=False)
class ImageDetections:
    """The detections of one image, the most confident first.

    ``boxes`` (n, 4) x1, y1, x2, y2 in original pixels; ``scores`` (n,); ``labels`` (n,) 0-based.
    """

    image_id: int
    boxes: NDArray[np.float32]
    scores: NDArray[np.float32]
    labels: NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class Suppression:
    """How predictions become detections: the arguments of :func:`detections`."""

    confidence: float = 0.03
    iou: float = 0.65
    max_detections: int = 300
    multi_label: bool = True


PUBLISHED = Suppression()
"""The settings of the published YOLOv6 evaluation."""


def detect(
    predict: Predictor,
    prepare: Prepare,
    batches: Iterable[tuple[ImageBatch, Sequence[BoxInverse]]],
    image_sizes: Mapping[int, tuple[int, int]],
    *,
    suppression: Suppression = PUBLISHED,
    num_batches: int | None = None,
    description: str = "evaluate",
    progress: Progress | None = None,
) -> list[ImageDetections]:
    """Runs a predictor over batches and gathers detections in original pixels.

    Args:
        predict: The network or engine.
        prepare: Makes of the images what it takes.
        batches: Batches and, for each image, how it was resized and padded.
        image_sizes: (width, height) of the original images by image id; boxes are clipped to them.
        suppression: Thresholds of the post-processing.
        num_batches: How many batches will come, for the bar.
        description: What the bar says.
        progress: Who watches.

    Raises:
        NumericalError: The predictor returned NaN or infinity.
    """
    found: list[ImageDetections] = []
    for batch, framings in (progress or Silent()).track(batches, description, total=num_batches):
        rows = detections(
            predict(prepare(batch.images)),
            confidence=suppression.confidence,
            iou=suppression.iou,
            max_detections=suppression.max_detections,
            multi_label=suppression.multi_label,
        )
        image_ids = np.asarray(batch.image_ids).tolist()
        for image_id, image_rows, framing in zip(image_ids, rows, framings, strict=True):
            boxes = np.asarray(framing.inverse(image_rows[:, :4]), dtype=np.float32)
            found.append(_clipped(image_id, boxes, image_rows, image_sizes[image_id]))
    return found


def evaluate_predictor(
    predict: Predictor,
    prepare: Prepare,
    batches: Iterable[tuple[ImageBatch, Sequence[BoxInverse]]],
    ground_truth: Mapping[str, Any],
    category_ids: Sequence[int],
    *,
    suppression: Suppression = PUBLISHED,
    by_size: bool = True,
    num_batches: int | None = None,
    description: str = "evaluate",
    progress: Progress | None = None,
) -> tuple[MapResult, list[ImageDetections]]:
    """Measures COCO average precision on the images that ``batches`` holds.

    Args:
        predict: The network or engine.
        prepare: Makes of the images what it takes.
        batches: Batches and, for each image, how it was resized and padded.
        ground_truth: A COCO data set in original pixels.
        category_ids: The category id of each label.
        suppression: Thresholds of the post-processing.
        by_size: Whether to score small, medium and large objects too.
        num_batches: How many batches will come, for the bar.
        description: What the bar says.
        progress: Who watches.

    Returns:
        The average precision, and the detections for pictures and for :func:`agreement`.

    Raises:
        DataError: The images show no object.
        NumericalError: The predictor returned NaN or infinity.
    """
    sizes = {image["id"]: (image["width"], image["height"]) for image in ground_truth["images"]}
    found = detect(
        predict,
        prepare,
        batches,
        sizes,
        suppression=suppression,
        num_batches=num_batches,
        description=description,
        progress=progress,
    )
    return score(found, ground_truth, category_ids, by_size=by_size), found


def score(
    found: Iterable[ImageDetections],
    ground_truth: Mapping[str, Any],
    category_ids: Sequence[int],
    *,
    by_size: bool = True,
) -> MapResult:
    """Returns the COCO average precision of detections over their own images."""
    evaluator = CocoEvaluator(ground_truth, category_ids, by_size=by_size)
    for image in found:
        evaluator.add(image.image_id, image.boxes, image.scores, image.labels)
    return evaluator.result()


def agreement_if_confident(
    reference: Sequence[ImageDetections],
    candidate: Sequence[ImageDetections],
    class_names: Sequence[str],
    *,
    confidence: float = 0.3,
) -> float | None:
    """Returns the mAP of :func:`agreement`, None where the reference is confident of nothing."""
    try:
        return agreement(reference, candidate, class_names, confidence=confidence).map
    except DataError:
        return None


def agreement(
    reference: Sequence[ImageDetections],
    candidate: Sequence[ImageDetections],
    class_names: Sequence[str],
    *,
    confidence: float = 0.3,
) -> MapResult:
    """Measures how well one predictor reproduces another, without any annotation.

    The reference's detections above ``confidence`` are taken as ground truth. The value is 1.0
    where the candidate finds each of them, ranked before everything else, within IoU 0.95.

    Raises:
        DataError: The reference has no detection above ``confidence``.
    """
    return score(
        candidate, pseudo_ground_truth(reference, class_names, confidence), _ids(class_names)
    )


def pseudo_ground_truth(
    reference: Sequence[ImageDetections], class_names: Sequence[str], confidence: float
) -> dict[str, Any]:
    """Returns confident detections as a COCO data set whose category ids count from 1.

    Raises:
        DataError: No detection is above ``confidence``.
    """
    annotations = [
        {
            "image_id": image.image_id,
            "category_id": int(label) + 1,
            "bbox": [float(x1), float(y1), float(x2 - x1), float(y2 - y1)],
        }
        for image in reference
        for (x1, y1, x2, y2), value, label in zip(
            image.boxes, image.scores, image.labels, strict=True
        )
        if value > confidence
    ]
    if not annotations:
        raise DataError(
            f"the reference has no detection above {confidence} in {len(reference)} images",
            hint="train it for longer or lower the confidence",
        )
    return {
        "images": [{"id": image.image_id} for image in reference],
        "categories": [
            {"id": number, "name": name}
            for number, name in zip(_ids(class_names), class_names, strict=True)
        ],
        "annotations": annotations,
    }


def _ids(class_names: Sequence[str]) -> range:
    return range(1, len(class_names) + 1)


def _clipped(
    image_id: int,
    boxes: NDArray[np.float32],
    rows: NDArray[np.float32],
    size: tuple[int, int],
) -> ImageDetections:
    limits = np.asarray((*size, *size), dtype=np.float32)
    return ImageDetections(
        image_id=image_id,
        boxes=np.clip(boxes, 0, limits),
        scores=rows[:, 4],
        labels=rows[:, 5].astype(np.int64),
    )
