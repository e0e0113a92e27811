"""Raw predictions to detections: score threshold and class-aware non-maximum suppression."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from quantpipe.errors import NumericalError

# Candidates past this many, the least confident ones, are dropped before suppression. An untrained
# network can push every anchor and class over a low threshold; the time spent stays bounded.
MAX_CANDIDATES = 30_000

# Boxes that are compared with one another at once: small enough for the pairwise matrices to stay
# in the processor's cache, large enough to hide the cost of a numpy call.
_BLOCK = 256


def detections(
    predictions: NDArray[np.float32],
    *,
    confidence: float = 0.03,
    iou: float = 0.65,
    max_detections: int = 300,
    multi_label: bool = True,
) -> list[NDArray[np.float32]]:
    """Turns the network's output into detections, image by image.

    The defaults are those of the published YOLOv6 evaluation. No more than
    :data:`MAX_CANDIDATES` boxes of an image, the most confident, enter the suppression.

    Args:
        predictions: (B, A, 5 + C): center x, center y, width, height in pixels, objectness, and
            C class scores. Anything that ``numpy.asarray`` takes, so also a tensor on the CPU.
        confidence: Only scores above it (objectness times class score) count.
        iou: Boxes of one class that overlap a more confident one by more than this are dropped.
        max_detections: The most detections that an image may have.
        multi_label: Whether an anchor may give one detection for each class, or its best only.

    Returns:
        For each image an array (n, 6) of x1, y1, x2, y2 in pixels, score and label, the most
        confident first.

    Raises:
        NumericalError: A prediction is NaN or infinite.
    """
    raw = np.asarray(predictions, dtype=np.float32)
    assert raw.ndim == 3, raw.shape
    assert raw.shape[2] > 5, raw.shape
    _require_finite(raw)
    return [
        _image_detections(prediction, confidence, iou, max_detections, multi_label)
        for prediction in raw
    ]


def non_maximum_suppression(
    boxes: NDArray[np.float32],
    scores: NDArray[np.float32],
    labels: NDArray[np.intp],
    *,
    iou: float,
    max_detections: int,
) -> NDArray[np.intp]:
    """Greedy class-aware non-maximum suppression.

    Walks the boxes from the most to the least confident (the first of equals first) and keeps each
    one that no kept box of its class overlaps by more than ``iou``. Blocks of boxes are settled
    together: the fixed point of "kept unless a kept one suppresses it" is the greedy answer
    (Zheng et al., Enhancing Geometric Factors, arXiv 2005.03572, section 4.2).

    Args:
        boxes: (n, 4) x1, y1, x2, y2.
        scores: (n,)
        labels: (n,) class indices; boxes of different classes never suppress each other.
        iou: The largest overlap that is kept.
        max_detections: Where to stop.

    Returns:
        Indices of the kept boxes, the most confident first.
    """
    order = np.argsort(-scores, kind="stable")[:MAX_CANDIDATES]
    boxes, labels = boxes[order], labels[order]
    kept = np.empty(0, dtype=np.intp)
    for start in range(0, len(order), _BLOCK):
        block = np.arange(start, min(start + _BLOCK, len(order)))
        block = block[~_overlapping(boxes, labels, kept, block, iou).any(axis=0)]
        block = block[_greedy(_overlapping(boxes, labels, block, block, iou))]
        kept = np.concatenate((kept, block))
        if len(kept) >= max_detections:
            break
    return order[kept[:max_detections]]


def _require_finite(predictions: NDArray[np.float32]) -> None:
    finite = np.isfinite(predictions).all(axis=(1, 2))
    if not finite.all():
        raise NumericalError(
            f"the prediction for image {int(np.argmin(finite))} of the batch holds NaN or infinity",
            hint="the network or engine is broken at this precision; keep more layers in float",
        )


def _image_detections(
    prediction: NDArray[np.float32],
    confidence: float,
    iou: float,
    max_detections: int,
    multi_label: bool,
) -> NDArray[np.float32]:
    scores = prediction[:, 5:] * prediction[:, 4:5]
    if multi_label:
        anchors, labels = np.nonzero(scores > confidence)
    else:
        best = scores.argmax(axis=1)
        anchors = np.flatnonzero(scores.max(axis=1) > confidence)
        labels = best[anchors]
    confident = scores[anchors, labels]
    boxes = _corners(prediction[anchors, :4])
    kept = non_maximum_suppression(boxes, confident, labels, iou=iou, max_detections=max_detections)
    columns = (boxes[kept], confident[kept, None], labels[kept, None].astype(np.float32))
    return np.concatenate(columns, axis=1)


def _corners(boxes: NDArray[np.float32]) -> NDArray[np.float32]:
    half = boxes[:, 2:] / 2
    return np.concatenate((boxes[:, :2] - half, boxes[:, :2] + half), axis=1)


def _overlapping(
    boxes: NDArray[np.float32],
    labels: NDArray[np.intp],
    rows: NDArray[np.intp],
    columns: NDArray[np.intp],
    iou: float,
) -> NDArray[np.bool_]:
    """Whether a box of ``rows`` and one of ``columns`` share a class and more than ``iou``."""
    left, top, right, bottom = (side[:, None] for side in boxes[rows].T)
    other_left, other_top, other_right, other_bottom = boxes[columns].T
    width = np.minimum(right, other_right) - np.maximum(left, other_left)
    height = np.minimum(bottom, other_bottom) - np.maximum(top, other_top)
    intersection = np.maximum(width, 0) * np.maximum(height, 0)
    area = np.maximum(right - left, 0) * np.maximum(bottom - top, 0)
    other_area = np.maximum(other_right - other_left, 0) * np.maximum(other_bottom - other_top, 0)
    same_class: NDArray[np.bool_] = labels[rows][:, None] == labels[columns]
    # A product in place of a quotient: a box without area overlaps nothing and divides by nothing.
    too_much: NDArray[np.bool_] = intersection > iou * (area + other_area - intersection)
    return too_much & same_class


def _greedy(overlapping: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Which of n boxes, sorted by confidence, the greedy walk keeps, from their (n, n) overlaps."""
    suppresses = np.triu(overlapping, k=1)
    kept: NDArray[np.bool_] = np.ones(len(suppresses), dtype=np.bool_)
    while True:
        settled = np.logical_not(np.logical_or.reduce(suppresses[kept], axis=0))
        if np.array_equal(settled, kept):
            return kept
        kept = settled
