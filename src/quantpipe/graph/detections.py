"""The detections of a graph that suppresses by itself, in the form of the network's predictions.

Such a graph hands out four arrays per batch, padded to the most detections that an image may have:
``num_dets`` (B, 1) int32, ``det_boxes`` (B, K, 4) float32 x1, y1, x2, y2 in pixels, ``det_scores``
(B, K) float32, and ``det_classes`` (B, K) int32. Everything after the detections of an image is
zero, the class too, as TensorRT's ``EfficientNMS_TRT`` leaves it.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

_FIRST_CLASS = 5


def predictions_from(
    outputs: Sequence[NDArray[np.generic]], num_classes: int | None
) -> NDArray[np.float32]:
    """Returns what a network or an engine computed as predictions (B, A, 5 + classes).

    Each detection becomes a row of its own: center x, center y, width, height, objectness 1, and
    one class score; padding becomes rows of zeros. Suppressing such rows once more with the same
    or with looser thresholds changes nothing.

    Args:
        outputs: The one array of predictions, or the four, in the order above.
        num_classes: None for an array of predictions, which is returned as it is.
    """
    if num_classes is None:
        predictions = np.asarray(outputs[0], dtype=np.float32)
        return predictions
    counts, boxes, scores, labels = (np.asarray(output) for output in outputs)
    num_images, num_rows = scores.shape
    rows = np.zeros((num_images, num_rows, _FIRST_CLASS + num_classes), dtype=np.float32)
    image, place = np.nonzero(np.arange(num_rows) < counts.reshape(-1, 1))
    left_top, right_bottom = boxes[image, place, :2], boxes[image, place, 2:]
    rows[image, place, :2] = (left_top + right_bottom) / 2
    rows[image, place, 2:4] = right_bottom - left_top
    rows[image, place, 4] = 1.0
    rows[image, place, _FIRST_CLASS + labels[image, place]] = scores[image, place]
    return rows
