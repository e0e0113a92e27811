"""Boxes of a whole set become records: each at its image, in order, fitted or left out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from quantpipe.data.faults import Findings
from quantpipe.data.records import Annotations, FoundImage, build_records
from quantpipe.errors import DataError

IMAGES = [FoundImage(9, Path("a"), 40, 20), FoundImage(4, Path("b"), 10, 10)]


def given_boxes(*rows: tuple[int, list[float], int, float, bool]) -> Annotations:
    owners, boxes, labels, areas, crowd = zip(*rows, strict=True)
    return Annotations(
        owners=np.array(owners),
        boxes=np.array(boxes, dtype=np.float64),
        labels=np.array(labels),
        areas=np.array(areas),
        crowd=np.array(crowd),
        where=lambda index: f"box {index}",
    )


def build(given: Annotations, *, strict: bool = False) -> tuple[list[Any], Findings]:
    findings = Findings(Path("x"), strict=strict, max_bad_images=0)
    return build_records(IMAGES, given, findings), findings


def test_boxes_go_to_their_images_in_order() -> None:
    given = given_boxes(
        (1, [0, 0, 4, 5], 2, np.nan, False),
        (0, [1, 1, 9, 9], 0, 7.0, False),
        (1, [2, 2, 3, 3], 1, np.nan, True),
        (0, [0, 0, 40, 20], 1, np.nan, False),
    )
    (first, second), findings = build(given, strict=True)
    assert (first.image_id, first.width, first.path) == (9, 40, Path("a"))
    assert first.boxes.tolist() == [[1, 1, 9, 9], [0, 0, 40, 20]]
    assert first.labels.tolist() == [0, 1]
    assert first.areas.tolist() == [7, 800]
    assert second.boxes.tolist() == [[0, 0, 4, 5]]
    assert second.areas.tolist() == [20]
    assert second.crowd_boxes.tolist() == [[2, 2, 3, 3]]
    assert second.crowd_labels.tolist() == [1]
    assert (first.boxes.dtype, first.labels.dtype, first.areas.dtype) == ("f4", "i8", "f4")
    assert not +findings.counts


def test_each_box_is_held_to_its_own_image() -> None:
    given = given_boxes(
        (0, [0, 0, 12, 9], 0, np.nan, False),
        (1, [0, 0, 12, 9], 0, np.nan, False),
        (1, [11, 0, 12, 9], 0, np.nan, False),
    )
    (first, second), findings = build(given)
    assert first.boxes.tolist() == [[0, 0, 12, 9]]
    assert second.boxes.tolist() == [[0, 0, 10, 9]]
    assert (findings.counts["clipped"], findings.counts["dropped"]) == (1, 1)
    assert findings.notes == (
        "box 2: box (11, 0, 12, 9) in an image of 10x10 dropped",
        "box 1: box (0, 0, 12, 9) in an image of 10x10 clipped",
    )
    with pytest.raises(DataError, match="box 2"):
        build(given, strict=True)


def test_all_faults_are_counted_and_some_are_kept() -> None:
    given = given_boxes(*[(0, [np.nan] * 4, 0, np.nan, False)] * 300)
    records, findings = build(given)
    assert findings.counts["dropped"] == 300
    assert len(findings.notes) == 50
    assert [len(record.boxes) for record in records] == [0, 0]
