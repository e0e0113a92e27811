"""What was found in one image, and in many as columns."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from quantpipe.errors import DataError, NumericalError
from quantpipe.evaluation.objects import Objects


@dataclass(frozen=True, kw_only=True, eq=False)
class ImageDetections:
    """The detections of one image, the most confident first.

    ``boxes`` (n, 4) x1, y1, x2, y2 in original pixels; ``scores`` (n,); ``labels`` (n,) 0-based.
    """

    image_id: int
    boxes: NDArray[np.float32]
    scores: NDArray[np.float32]
    labels: NDArray[np.int64]


@dataclass(frozen=True, kw_only=True, eq=False)
class Detections:
    """The detections of I images.

    Attributes:
        image_ids: (I,) int64, each once, also of images in which nothing was found.
        image: (D,) the position of each detection's image in ``image_ids``.
        label: (D,) 0-based.
        box: (D, 4) float64 x, y, width, height in original pixels.
        score: (D,) float64.
    """

    image_ids: NDArray[np.int64]
    image: NDArray[np.intp]
    label: NDArray[np.intp]
    box: NDArray[np.float64]
    score: NDArray[np.float64]


def in_columns(found: Sequence[ImageDetections]) -> Detections:
    """Returns the detections of all images as columns; widths and heights are at least 0.

    Raises:
        NumericalError: A box or a score is NaN or infinite (COCO would score it 1.0).
    """
    image_ids = np.array([image.image_id for image in found], dtype=np.int64)
    assert len(np.unique(image_ids)) == len(image_ids), "an image was added twice"
    image = _positions(found)
    corners = _joined([image.boxes for image in found]).reshape(-1, 4).astype(np.float64)
    score = _joined([image.scores for image in found]).astype(np.float64)
    broken = ~(np.isfinite(corners).all(axis=1) & np.isfinite(score))
    if broken.any():
        bad = image_ids[image[broken][0]]
        raise NumericalError(f"a detection in image {bad} is NaN or infinite")
    sizes = np.maximum(corners[:, 2:] - corners[:, :2], 0)
    return Detections(
        image_ids=image_ids,
        image=image,
        label=_joined([image.labels for image in found]).astype(np.intp),
        box=np.concatenate((corners[:, :2], sizes), axis=1),
        score=score,
    )


def confident_objects(
    reference: Sequence[ImageDetections], class_names: Sequence[str], confidence: float
) -> Objects:
    """Returns the detections above ``confidence`` as objects to find.

    Raises:
        DataError: No detection is above it.
    """
    confident = _joined([image.scores for image in reference]) > confidence
    if not confident.any():
        raise DataError(
            f"the reference has no detection above {confidence} in {len(reference)} images",
            hint="train it for longer or lower the confidence",
        )
    corners = _joined([image.boxes for image in reference]).reshape(-1, 4)[confident]
    box = np.concatenate((corners[:, :2], corners[:, 2:] - corners[:, :2]), axis=1)
    box = box.astype(np.float64)
    return Objects(
        image_ids=np.array([image.image_id for image in reference], dtype=np.int64),
        image=_positions(reference)[confident],
        label=_joined([image.labels for image in reference])[confident].astype(np.intp),
        box=box,
        area=box[:, 2] * box[:, 3],
        crowd=np.zeros(len(box), dtype=np.bool_),
        class_names=tuple(class_names),
    )


def _positions(found: Sequence[ImageDetections]) -> NDArray[np.intp]:
    """The position of each detection's image."""
    counts = [len(image.scores) for image in found]
    return np.repeat(np.arange(len(found), dtype=np.intp), counts)


def _joined(parts: Sequence[NDArray[Any]]) -> NDArray[Any]:
    return np.concatenate(parts) if parts else np.empty(0, dtype=np.float32)
