import time
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from quantpipe.errors import NumericalError
from quantpipe.evaluation.postprocess import detections, non_maximum_suppression


def _iou(a: NDArray[Any], b: NDArray[Any]) -> float:
    width = max(min(a[2], b[2]) - max(a[0], b[0]), 0.0)
    height = max(min(a[3], b[3]) - max(a[1], b[1]), 0.0)
    union = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - width * height
    return float(width * height / union)


def _greedy_reference(
    boxes: NDArray[Any],
    scores: NDArray[Any],
    labels: NDArray[Any],
    iou: float,
    max_detections: int,
) -> list[int]:
    """The textbook loop, one box at a time, in double precision."""
    remaining = sorted(range(len(boxes)), key=lambda index: -scores[index])
    kept: list[int] = []
    while remaining and len(kept) < max_detections:
        best = remaining.pop(0)
        kept.append(best)
        remaining = [
            index
            for index in remaining
            if labels[index] != labels[best] or _iou(boxes[best], boxes[index]) <= iou
        ]
    return kept


def _random_boxes(
    rng: np.random.Generator, number: int, extent: int, num_classes: int
) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.intp]]:
    corner = rng.uniform(0, extent, (number, 2))
    boxes = np.concatenate((corner, corner + rng.uniform(5, 60, (number, 2))), axis=1)
    scores = rng.permutation(number) / number
    return (
        boxes.astype(np.float32),
        scores.astype(np.float32),
        rng.integers(0, num_classes, number),
    )


@pytest.mark.parametrize(
    ("number", "extent", "num_classes", "iou", "limit"),
    [
        (1, 100, 1, 0.65, 300),
        (300, 30, 1, 0.5, 300),  # one dense pile: long chains of suppression
        (700, 40, 3, 0.65, 300),  # more than two blocks
        (900, 400, 80, 0.65, 300),  # sparse: the limit decides
        (600, 60, 2, 0.3, 10),
        (400, 20, 1, 0.9, 300),
    ],
)
def test_suppression_equals_the_textbook_loop(
    number: int, extent: int, num_classes: int, iou: float, limit: int
) -> None:
    for seed in range(3):
        rng = np.random.default_rng(seed)
        boxes, scores, labels = _random_boxes(rng, number, extent, num_classes)
        expected = _greedy_reference(boxes.astype(np.float64), scores, labels, iou, limit)
        kept = non_maximum_suppression(boxes, scores, labels, iou=iou, max_detections=limit)
        assert kept.tolist() == expected


def test_a_suppressed_box_suppresses_nothing() -> None:
    # a overlaps b, b overlaps c, a does not overlap c: b goes, c stays.
    boxes = np.array([[0, 0, 10, 10], [4, 0, 14, 10], [8, 0, 18, 10]], dtype=np.float32)
    scores = np.array([0.9, 0.8, 0.7], dtype=np.float32)
    kept = non_maximum_suppression(
        boxes, scores, np.zeros(3, dtype=np.intp), iou=0.4, max_detections=9
    )
    assert kept.tolist() == [0, 2]


def test_equal_scores_keep_the_first_and_empty_boxes_stay_harmless() -> None:
    boxes = np.array([[0, 0, 10, 10], [0, 0, 10, 10], [5, 5, 5, 5], [5, 5, 5, 5]], np.float32)
    scores = np.full(4, 0.5, dtype=np.float32)
    kept = non_maximum_suppression(
        boxes, scores, np.zeros(4, dtype=np.intp), iou=0.5, max_detections=9
    )
    assert kept.tolist() == [0, 2, 3]


def test_detections_are_corners_scores_and_labels_by_confidence() -> None:
    predictions = np.array(
        [[[10, 20, 4, 8, 1.0, 0.2, 0.9], [50, 60, 10, 10, 0.5, 0.8, 0.04]]], dtype=np.float32
    )
    (found,) = detections(predictions)
    expected = [
        [8, 16, 12, 24, 0.9, 1],
        [45, 55, 55, 65, 0.4, 0],  # objectness times class score
        [8, 16, 12, 24, 0.2, 0],  # the same anchor's second label; 0.5 * 0.04 is below 0.03
    ]
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_one_label_an_anchor_on_request() -> None:
    predictions = np.array([[[10, 20, 4, 8, 1.0, 0.2, 0.9]]], dtype=np.float32)
    (found,) = detections(predictions, multi_label=False)
    assert found[:, 5].tolist() == [1]


def test_threshold_is_strict_and_nothing_found_is_an_empty_array() -> None:
    predictions = np.array([[[10, 20, 4, 8, 1.0, 0.25]]], dtype=np.float32)
    assert detections(predictions, confidence=0.25)[0].shape == (0, 6)
    assert detections(predictions, confidence=0.24)[0].shape == (1, 6)


def test_images_do_not_disturb_each_other() -> None:
    rng = np.random.default_rng(5)
    predictions = _predictions(rng, 3, 200, 2)
    together = detections(predictions)
    for image in range(3):
        np.testing.assert_array_equal(
            together[image], detections(predictions[image : image + 1])[0]
        )


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("column", [0, 5])
def test_nan_and_infinity_are_refused_with_the_image(value: float, column: int) -> None:
    predictions = np.full((2, 4, 7), 0.5, dtype=np.float32)
    predictions[1, 2, column] = value
    with pytest.raises(NumericalError, match="image 1"):
        detections(predictions)


def test_a_validation_set_is_fast() -> None:
    rng = np.random.default_rng(1)
    predictions = _predictions(rng, 87, 2100, 3)
    crowded = _predictions(rng, 1, 5000, 80)
    start = time.process_time()
    found = detections(predictions)
    detections(crowded)
    assert time.process_time() - start < 2.0
    assert max(len(rows) for rows in found) == 300


def _predictions(
    rng: np.random.Generator, num_images: int, num_anchors: int, num_classes: int
) -> NDArray[np.float32]:
    predictions = np.ones((num_images, num_anchors, 5 + num_classes), dtype=np.float32)
    predictions[..., :2] = rng.uniform(0, 320, (num_images, num_anchors, 2))
    predictions[..., 2:4] = rng.uniform(8, 90, (num_images, num_anchors, 2))
    predictions[..., 5:] = rng.random((num_images, num_anchors, num_classes))
    return predictions
