"""Accuracy of anything that maps images to predictions, and agreement between two of them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from quantpipe.errors import DataError
from quantpipe.evaluation.average_precision import MatchedDetections
from quantpipe.evaluation.coco_map import MapResult, matched_detections, summarized
from quantpipe.evaluation.image_detections import ImageDetections, confident_objects
from quantpipe.evaluation.objects import Objects
from quantpipe.evaluation.postprocess import detections
from quantpipe.graph.suppression import Suppression
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


PUBLISHED = Suppression(confidence=0.03, iou=0.65, max_detections=300)
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
        )
        image_ids = np.asarray(batch.image_ids).tolist()
        for image_id, image_rows, framing in zip(image_ids, rows, framings, strict=True):
            boxes = np.asarray(framing.inverse(image_rows[:, :4]), dtype=np.float32)
            found.append(_clipped(image_id, boxes, image_rows, image_sizes[image_id]))
    return found


@dataclass(frozen=True, kw_only=True, eq=False)
class Measured:
    """What a predictor finds on a set of images.

    Attributes:
        result: Its average precision.
        detections: One record an image, for pictures and for :func:`agreement`.
        matched: The same, matched to the objects, for the bootstrap.
    """

    result: MapResult
    detections: list[ImageDetections]
    matched: MatchedDetections


def evaluate_predictor(
    predict: Predictor,
    prepare: Prepare,
    batches: Iterable[tuple[ImageBatch, Sequence[BoxInverse]]],
    objects: Objects,
    image_sizes: Mapping[int, tuple[int, int]],
    *,
    suppression: Suppression = PUBLISHED,
    num_batches: int | None = None,
    description: str = "evaluate",
    progress: Progress | None = None,
) -> Measured:
    """Measures COCO average precision on the images that ``batches`` holds.

    Args:
        predict: The network or engine.
        prepare: Makes of the images what it takes.
        batches: Batches and, for each image, how it was resized and padded.
        objects: What is to be found in these images, and maybe others.
        image_sizes: (width, height) of the original images by image id.
        suppression: Thresholds of the post-processing.
        num_batches: How many batches will come, for the bar.
        description: What the bar says.
        progress: Who watches.

    Raises:
        DataError: The images show no object.
        NumericalError: The predictor returned NaN or infinity.
    """
    found = detect(
        predict,
        prepare,
        batches,
        image_sizes,
        suppression=suppression,
        num_batches=num_batches,
        description=description,
        progress=progress,
    )
    matched = matched_detections(found, objects)
    result = summarized(found, matched, objects.class_names)
    return Measured(result=result, detections=found, matched=matched)


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
    matched = matched_agreement(reference, candidate, class_names, confidence=confidence)
    return summarized(candidate, matched, class_names)


def matched_agreement(
    reference: Sequence[ImageDetections],
    candidate: Sequence[ImageDetections],
    class_names: Sequence[str],
    *,
    confidence: float = 0.3,
) -> MatchedDetections:
    """As :func:`agreement`, ready to be resampled.

    Raises:
        DataError: The reference has no detection above ``confidence``.
    """
    return matched_detections(candidate, confident_objects(reference, class_names, confidence))


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
