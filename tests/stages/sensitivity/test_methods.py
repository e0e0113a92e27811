from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from tests.evaluation.random_boxes import random_detections, random_truth
from tests.yolov6_numbers import LOSS_SETTINGS

from quantpipe.detector.families.implementation import RawPrediction
from quantpipe.detector.families.yolov6.architecture import STRIDES
from quantpipe.detector.families.yolov6.loss import TaskAlignedLoss
from quantpipe.stages.sensitivity.methods import LabeledPrediction, _images, image_losses

LOSS = TaskAlignedLoss(strides=STRIDES, settings=replace(LOSS_SETTINGS, box_loss="siou"))
ANCHORS = 64 + 16 + 4


def prediction(seed: int, num_images: int = 3) -> RawPrediction:
    """Of images of 64 pixels with two classes."""
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(num_images, ANCHORS, 2, generator=generator)
    distances = torch.rand(num_images, ANCHORS, 4, generator=generator) * 2 + 0.5
    features = tuple(torch.zeros(num_images, 1, 64 // s, 64 // s) for s in STRIDES)
    return RawPrediction(logits, distances, features)


def labeled(found: RawPrediction) -> LabeledPrediction:
    boxes = torch.tensor([[[4.0, 6.0, 40.0, 50.0], [30.0, 30.0, 60.0, 60.0]]] * 3)
    return LabeledPrediction(found, boxes, torch.tensor([[0, 1], [1, -1], [-1, -1]]))


def alone(found: RawPrediction, row: int) -> RawPrediction:
    one = slice(row, row + 1)
    return RawPrediction(found.class_logits[one], found.distances[one], found.features)


def test_each_image_has_the_loss_of_a_batch_of_its_own() -> None:
    seen = labeled(prediction(0))
    losses = image_losses(LOSS, seen, seen)
    for row in range(3):
        whole = LOSS(
            alone(seen.prediction, row), seen.boxes[row : row + 1], seen.labels[row : row + 1]
        )
        assert float(losses[row]) == pytest.approx(float(whole.total))
    everything = LOSS(seen.prediction, seen.boxes, seen.labels).total
    assert float(losses.mean()) != pytest.approx(float(everything))


def test_the_float_network_decides_what_is_wanted() -> None:
    seen, in_float = labeled(prediction(0)), labeled(prediction(1))
    mixed = image_losses(LOSS, seen, in_float)
    own = image_losses(LOSS, seen, seen)
    assert (mixed[:2] != own[:2]).all()
    assert mixed[2] == own[2]  # nothing is marked there, so nothing is assigned


def test_detections_come_back_from_a_record_as_they_were() -> None:
    rng = np.random.default_rng(0)
    found = random_detections(rng, random_truth(rng))
    boxes, scores, labels = zip(*found.values(), strict=True)
    record = {
        "image_ids": np.array(list(found)),
        "counts": np.array([len(one) for one in scores]),
        "boxes": np.concatenate(boxes),
        "scores": np.concatenate(scores),
        "labels": np.concatenate(labels),
    }
    images = list(_images(record))
    assert [image.image_id for image in images] == list(found)
    for image, rows in zip(images, found.values(), strict=True):
        for got, expected in zip((image.boxes, image.scores, image.labels), rows, strict=True):
            np.testing.assert_array_equal(got, expected)
