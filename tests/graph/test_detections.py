from __future__ import annotations

import numpy as np
import pytest

from quantpipe.evaluation.postprocess import detections
from quantpipe.graph.detections import predictions_from


def test_each_detection_is_a_row_of_its_own_and_padding_is_zero() -> None:
    outputs = [
        np.array([[1], [0], [2]], dtype=np.int32),
        np.array([[[10, 20, 14, 30], [0, 0, 0, 0]]] * 3, dtype=np.float32),
        np.array([[0.5, 0], [0, 0], [0.5, 0.25]], dtype=np.float32),
        np.array([[2, 0], [0, 0], [1, 0]], dtype=np.int32),
    ]
    outputs[1][1] = 0
    outputs[1][2, 1] = [-4, 2, 4, 3]
    expected = np.zeros((3, 2, 8))
    expected[0, 0] = [12, 25, 4, 10, 1, 0, 0, 0.5]
    expected[2, 0] = [12, 25, 4, 10, 1, 0, 0.5, 0]
    expected[2, 1] = [0, 2.5, 8, 1, 1, 0.25, 0, 0]
    found = predictions_from(outputs, 3)
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, expected)


def test_predictions_are_returned_as_they_are() -> None:
    predictions = np.zeros((2, 5, 8), dtype=np.float32)
    assert predictions_from([predictions], None) is predictions


@pytest.mark.parametrize("confidence", [0.0, 0.3])
def test_suppressing_again_changes_nothing(confidence: float) -> None:
    rng = np.random.default_rng(3)
    boxes = rng.random((2, 400, 4)) * [300, 300, 80, 80] + [0, 0, 8, 8]
    raw = np.concatenate([boxes, np.ones((2, 400, 1)), rng.random((2, 400, 3)) ** 4], axis=2)
    kept = detections(raw.astype(np.float32), confidence=confidence, iou=0.5, max_detections=50)
    counts, labels = np.zeros((2, 1), np.int32), np.zeros((2, 50), np.int32)
    places, scores = np.zeros((2, 50, 4), np.float32), np.zeros((2, 50), np.float32)
    for image, each in enumerate(kept):
        number = counts[image, 0] = len(each)
        places[image, :number], scores[image, :number] = each[:, :4], each[:, 4]
        labels[image, :number] = each[:, 5]
    rows = predictions_from([counts, places, scores, labels], 3)
    again = detections(rows, confidence=confidence, iou=0.5, max_detections=50)
    assert all(len(each) > 10 for each in kept)
    for before, after in zip(kept, again, strict=True):
        np.testing.assert_allclose(after, before, atol=1e-4)
