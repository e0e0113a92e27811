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

from quantpipe.errors import DataError, NumericalError
from quantpipe.evaluation import matching
from quantpipe.evaluation.coco_map import MapResult, score


def _evaluate(truth: Truth, found: dict[int, Rows], by_size: bool = True) -> MapResult:
    return score(as_images(found), objects_in(truth), by_size=by_size)


@pytest.mark.parametrize("seed", range(4))
def test_equals_pycocotools(seed: int) -> None:
    rng = np.random.default_rng(seed)
    truth = random_truth(rng)
    found = random_detections(rng, truth)
    result = _evaluate(truth, found)
    measured = [result.map, result.map50, result.map75, result.small, result.medium, result.large]
    defined = np.array([-1.0 if value is None else value for value in measured])
    np.testing.assert_allclose(defined, pycocotools_stats(truth, found)[:6], atol=1e-12)
    assert result.num_images == 12
    assert result.map == pytest.approx(np.mean(list(result.per_class.values())))


@pytest.mark.parametrize("seed", range(12))
def test_equals_pycocotools_where_much_is_equal_empty_or_ignored(
    seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(matching, "_MOST_PAIRS", 100)
    rng = np.random.default_rng(seed)
    truth = hostile_truth(rng)
    found = hostile_detections(rng, truth)
    result = _evaluate(truth, found)
    measured = [result.map, result.map50, result.map75, result.small, result.medium, result.large]
    defined = np.array([-1.0 if value is None else value for value in measured])
    np.testing.assert_allclose(defined, pycocotools_stats(truth, found)[:6], atol=1e-9)


def test_without_sizes_the_rest_is_the_same() -> None:
    rng = np.random.default_rng(9)
    truth = random_truth(rng)
    found = random_detections(rng, truth)
    full, quick = _evaluate(truth, found), _evaluate(truth, found, by_size=False)
    assert (quick.map, quick.map50, quick.per_class) == (full.map, full.map50, full.per_class)
    assert (quick.small, quick.medium, quick.large) == (None, None, None)


def _one_box(**changes: Any) -> Truth:
    annotation = {"id": 1, "image_id": 1, "category_id": 3, "bbox": [10, 10, 100, 100], **changes}
    return {
        "images": [{"id": 1}, {"id": 2}],
        "categories": [{"id": n, "name": f"class {n}"} for n in (1, 3, 7)],
        "annotations": [annotation],
    }


def _rows(*rows: list[float]) -> Rows:
    table = np.array(rows, dtype=np.float32).reshape(-1, 6)
    return table[:, :4], table[:, 4], table[:, 5].astype(np.int64)


def test_perfect_is_one_and_only_the_class_seen_is_listed() -> None:
    result = _evaluate(_one_box(), {1: _rows([10, 10, 110, 110, 0.9, 0])})
    assert (result.map, result.map50, result.map75) == pytest.approx((1, 1, 1))
    assert result.per_class == pytest.approx({"class 3": 1.0})
    assert (result.small, result.medium) == (None, None)
    assert result.large == pytest.approx(1.0)


def test_a_shifted_box_counts_at_the_thresholds_it_passes() -> None:
    # IoU 80 / 120 = 2/3: right at 0.50, 0.55, 0.60 and 0.65 of the ten thresholds.
    result = _evaluate(_one_box(), {1: _rows([30, 10, 130, 110, 0.9, 0])})
    assert (result.map, result.map50, result.map75) == pytest.approx((0.4, 1.0, 0.0))


def test_a_confident_mistake_halves_the_precision() -> None:
    wrong_then_right = _rows([300, 300, 400, 400, 0.9, 0], [10, 10, 110, 110, 0.8, 0])
    assert _evaluate(_one_box(), {1: wrong_then_right}).map == pytest.approx(0.5)


def test_only_images_that_were_added_count() -> None:
    truth = _one_box()
    truth["annotations"].append({"image_id": 2, "category_id": 3, "bbox": [0, 0, 50, 50]})
    found = {1: _rows([10, 10, 110, 110, 0.9, 0])}
    assert _evaluate(truth, found).map == pytest.approx(1.0)
    # One of two objects found: precision 1 up to recall 0.5, which is 51 of COCO's 101 points.
    assert _evaluate(truth, {**found, 2: _rows()}).map == pytest.approx(51 / 101)


def test_no_detections_are_zero() -> None:
    result = _evaluate(_one_box(), {1: _rows(), 2: _rows()})
    assert (result.map, result.map50, result.large) == (0.0, 0.0, 0.0)
    assert result.per_class == {"class 3": 0.0}


@pytest.mark.parametrize("column", [0, 4])
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_nan_never_counts_as_perfect(column: int, value: float) -> None:
    boxes, scores, labels = _rows([10, 10, 110, 110, 0.9, 0])
    (boxes[0] if column == 0 else scores)[0] = value
    with pytest.raises(NumericalError, match="image 1"):
        _evaluate(_one_box(), {1: (boxes, scores, labels)})


def test_nothing_to_find_is_an_error_not_a_score() -> None:
    with pytest.raises(DataError, match="1 images"):
        _evaluate(_one_box(), {2: _rows([10, 10, 110, 110, 0.9, 0])})
    with pytest.raises(DataError):
        _evaluate(_one_box(iscrowd=1), {1: _rows()})


def test_unknown_image_is_named() -> None:
    with pytest.raises(DataError, match="image 42"):
        _evaluate(_one_box(), {1: _rows(), 42: _rows()})


def test_crowd_boxes_neither_help_nor_hurt() -> None:
    truth = _one_box()
    crowd = {"image_id": 1, "category_id": 3, "bbox": [200, 200, 200, 200], "iscrowd": 1}
    truth["annotations"].append(crowd)
    inside_crowd = _rows([210, 210, 260, 260, 0.95, 0], [10, 10, 110, 110, 0.9, 0])
    assert _evaluate(truth, {1: inside_crowd}).map == pytest.approx(1.0)
