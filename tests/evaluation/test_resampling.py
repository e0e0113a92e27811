from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from tests.evaluation.random_boxes import (
    Rows,
    Truth,
    as_images,
    hostile_detections,
    hostile_truth,
    objects_in,
    pycocotools_stats,
    random_detections,
    random_truth,
)

from quantpipe.evaluation.accuracy import agreement, matched_agreement
from quantpipe.evaluation.average_precision import MatchedDetections
from quantpipe.evaluation.coco_map import matched_detections
from quantpipe.evaluation.image_detections import ImageDetections
from quantpipe.evaluation.resampling import bootstrap, bootstrap_difference, resamples


def example(seed: int) -> tuple[Truth, dict[int, Rows]]:
    rng = np.random.default_rng(seed)
    truth = random_truth(rng)
    return truth, random_detections(rng, truth)


def matched(seed: int = 0) -> MatchedDetections:
    truth, found = example(seed)
    return matched_detections(as_images(found), objects_in(truth))


def replicated(
    truth: Truth, found: dict[int, Rows], multiplicity: Sequence[int]
) -> tuple[Truth, dict[int, Rows]]:
    """The data set with every image as often as it counts, as images of their own."""
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    copies: dict[int, Rows] = {}
    for (image_id, rows), times in zip(found.items(), multiplicity, strict=True):
        for _ in range(times):
            new = len(images) + 1
            images.append({"id": new, "width": 640, "height": 640})
            copies[new] = rows
            for annotation in truth["annotations"]:
                if annotation["image_id"] == image_id:
                    number = len(annotations) + 1
                    annotations.append({**annotation, "image_id": new, "id": number})
    return {**truth, "images": images, "annotations": annotations}, copies


@pytest.mark.parametrize("seed", range(4))
def test_pycocotools_gives_the_same_on_images_that_are_really_repeated(seed: int) -> None:
    truth, found = example(seed)
    multiplicity = np.random.default_rng(seed).multinomial(12, np.full(12, 1 / 12))
    ours = matched_detections(as_images(found), objects_in(truth))
    theirs = pycocotools_stats(*replicated(truth, found, multiplicity.tolist()))
    got = ours.average_precision(multiplicity)
    assert got.map == pytest.approx(theirs[0], abs=1e-12)
    assert got.map50 == pytest.approx(theirs[1], abs=1e-12)
    assert ours.resampled(multiplicity[None])[0] == pytest.approx(theirs[0], abs=1e-12)


@pytest.mark.parametrize("seed", range(4))
def test_pycocotools_gives_the_same_where_much_is_equal_or_ignored(seed: int) -> None:
    rng = np.random.default_rng(seed)
    truth = hostile_truth(rng)
    # Without equal scores, of which the order among copies of an image would be another.
    found = {
        image_id: (boxes, scores + rng.random(len(scores)) / 100, labels)
        for image_id, (boxes, scores, labels) in hostile_detections(rng, truth).items()
    }
    multiplicity = rng.multinomial(6, np.full(6, 1 / 6))
    theirs = pycocotools_stats(*replicated(truth, found, multiplicity.tolist()))
    got = matched_detections(as_images(found), objects_in(truth)).average_precision(multiplicity)
    assert [got.map, got.map50] == pytest.approx(theirs[:2].tolist(), abs=1e-9)


def test_each_image_once_is_the_average_precision_of_coco() -> None:
    truth, found = example(7)
    theirs = pycocotools_stats(truth, found)
    got = matched_detections(as_images(found), objects_in(truth)).average_precision()
    assert [got.map, got.map50] == pytest.approx(theirs[:2].tolist())


def test_more_resamples_than_fit_at_once_come_in_order() -> None:
    drawn = resamples(12, 70, seed=3)
    found = matched()
    one_by_one = [found.average_precision(m).map for m in drawn]
    assert found.resampled(drawn) == pytest.approx(np.array(one_by_one))


def test_resamples_draw_as_many_images_as_there_are() -> None:
    drawn = resamples(9, 500, seed=0)
    assert drawn.shape == (500, 9)
    assert (drawn.sum(axis=1) == 9).all()
    assert np.array_equal(drawn, resamples(9, 500, seed=0))
    assert not np.array_equal(drawn, resamples(9, 500, seed=1))


def test_a_predictor_does_not_differ_from_itself() -> None:
    found = matched()
    interval = bootstrap_difference(found, found, count=50, seed=0)
    assert (interval.value, interval.low, interval.high) == (0, 0, 0)
    assert interval.low <= 0 <= interval.high


def test_a_pair_is_told_apart_where_each_alone_is_uncertain() -> None:
    """One finds a little less on every image: the images' own spread cancels."""
    truth, found = example(1)
    worse: dict[int, Rows] = {
        image_id: (boxes[scores > 0.15], scores[scores > 0.15], labels[scores > 0.15])
        for image_id, (boxes, scores, labels) in found.items()
    }
    first = matched_detections(as_images(found), objects_in(truth))
    second = matched_detections(as_images(worse), objects_in(truth))
    difference = bootstrap_difference(first, second, count=400, seed=0)
    alone = bootstrap(first, count=400, seed=0)
    assert difference.value < 0
    assert difference.low > 0 or difference.high < 0
    assert alone.low < alone.value < alone.high
    assert difference.high - difference.low < alone.high - alone.low


def test_agreement_can_be_resampled() -> None:
    _, found = example(2)
    reference = as_images(found)
    _, other = example(3)
    candidate = [
        ImageDetections(image_id=i, boxes=b, scores=s, labels=v)
        for i, (b, s, v) in zip(found, other.values(), strict=True)
    ]
    names = ("a", "b", "c")
    expected = agreement(reference, candidate, names)
    got = matched_agreement(reference, candidate, names).average_precision()
    assert [got.map, got.map50] == pytest.approx([expected.map, expected.map50])
    assert matched_agreement(reference, reference, names).average_precision().map == 1.0
