from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from quantpipe.detector.families.yolov6.assignment import Assignment, task_aligned_assignment

LOGIT_HALF = 0.0


def row_of_points(count: int) -> Tensor:
    """Points 10 px apart on a line: (5, 5), (15, 5), ..."""
    x = torch.arange(count) * 10.0 + 5
    return torch.stack([x, torch.full_like(x, 5)], -1)


def assign(
    logits: Tensor, predicted: Tensor, points: Tensor, boxes: Tensor, labels: Tensor, topk: int
) -> Assignment:
    return task_aligned_assignment(
        logits, predicted, points, boxes, labels, topk=topk, alpha=1.0, beta=6.0
    )


def as_dict(assignment: Assignment) -> dict[tuple[int, int], tuple[int, list[float], float]]:
    rows = zip(*(column.tolist() for column in assignment), strict=True)
    return {(image, anchor): (label, box, score) for image, anchor, label, box, score in rows}


def test_hand_worked_example() -> None:
    # One object over anchors 0..2 of 4; predictions overlap it by 1/2, 1 and 1/4.
    boxes = torch.tensor([[[0.0, 0.0, 30.0, 10.0]]])
    predicted = torch.tensor([[[0, 0, 15, 10], [0, 0, 30, 10], [22.5, 0, 30, 10], [0, 0, 30, 10]]])
    logits = torch.full((1, 4, 1), LOGIT_HALF)
    found = as_dict(assign(logits, predicted, row_of_points(4), boxes, torch.tensor([[0]]), 2))
    # t = 1/2 u^6; the best two inside are anchors 1 and 0; scores t / max t * max u.
    assert set(found) == {(0, 1), (0, 0)}
    assert found[0, 1][2] == pytest.approx(1.0, abs=1e-6)
    assert found[0, 0][2] == pytest.approx(0.5**6, rel=1e-5)
    assert found[0, 0][:2] == (0, [0, 0, 30, 10])


def test_score_of_the_objects_own_class_counts() -> None:
    boxes = torch.tensor([[[0.0, 0.0, 20.0, 10.0]]])
    predicted = torch.tensor([[[0.0, 0, 20, 10], [0, 0, 20, 10]]])
    logits = torch.tensor([[[9.0, -9.0], [-9.0, 9.0]]])
    found = as_dict(assign(logits, predicted, row_of_points(2), boxes, torch.tensor([[1]]), 1))
    assert set(found) == {(0, 1)}


def test_contested_anchor_goes_to_the_larger_overlap() -> None:
    boxes = torch.tensor([[[0.0, 0, 10, 10], [0, 0, 12, 10]]])
    predicted = torch.tensor([[[0.0, 0, 12, 10]]])
    labels = torch.tensor([[0, 1]])
    # The class score favors the first box, its overlap is smaller.
    logits = torch.tensor([[[5.0, -5.0]]])
    found = as_dict(assign(logits, predicted, row_of_points(1), boxes, labels, 1))
    assert set(found) == {(0, 0)}
    label, box, score = found[0, 0]
    assert (label, box) == (1, [0, 0, 12, 10])
    assert score == pytest.approx(1.0, abs=1e-6)


def test_two_equal_boxes_share_no_anchor() -> None:
    boxes = torch.tensor([[[0.0, 0, 10, 10], [0, 0, 10, 10]]])
    predicted = torch.tensor([[[0.0, 0, 9, 10]]])
    logits = torch.zeros(1, 1, 2)
    found = assign(logits, predicted, row_of_points(1), boxes, torch.tensor([[1, 0]]), 13)
    assert found.anchor.tolist() == [0]
    assert found.label.tolist() == [1]


def test_padding_and_points_on_the_border_take_no_part() -> None:
    boxes = torch.tensor([[[0.0, 0, 0, 0], [5, 0, 15, 10]], [[0, 0, 30, 10], [0, 0, 0, 0]]])
    predicted = torch.tensor([[0.0, 0, 30, 10]]).expand(2, 3, 4)
    labels = torch.tensor([[-1, 0], [-1, -1]])
    found = assign(torch.zeros(2, 3, 1), predicted, row_of_points(3), boxes, labels, 13)
    assert found.image.tolist() == []  # (5, 5) and (15, 5) are on the border


@pytest.mark.parametrize("num_rows", [0, 3])
def test_no_objects_at_all(num_rows: int) -> None:
    boxes, labels = torch.zeros(2, num_rows, 4), torch.full((2, num_rows), -1)
    found = assign(torch.zeros(2, 5, 3), torch.zeros(2, 5, 4), row_of_points(5), boxes, labels, 13)
    assert [len(column) for column in found] == [0] * 5


def test_a_prediction_that_misses_gets_no_weight() -> None:
    boxes = torch.tensor([[[0.0, 0, 10, 10]]])
    predicted = torch.tensor([[[50.0, 50, 60, 60]]])
    found = assign(
        torch.zeros(1, 1, 1), predicted, row_of_points(1), boxes, torch.zeros(1, 1).long(), 1
    )
    assert found.score.tolist() in ([], [0.0])


def reference(
    scores: Any, predicted: Any, points: Any, boxes: Any, labels: Any, topk: int
) -> dict[tuple[int, int], tuple[int, list[float], float]]:
    """The paper's rules, one image, one box, one anchor at a time, in float64."""
    result: dict[tuple[int, int], tuple[int, list[float], float]] = {}
    for image in range(len(labels)):
        claims: dict[int, tuple[float, int, float]] = {}
        for row, (gt, label) in enumerate(zip(boxes[image], labels[image], strict=True)):
            if label < 0:
                continue
            candidates = []
            for anchor, (x, y) in enumerate(points):
                if gt[0] < x < gt[2] and gt[1] < y < gt[3]:
                    u = iou(predicted[image, anchor], gt)
                    candidates.append((scores[image, anchor, label] * u**6, anchor, u))
            for t, anchor, u in sorted(candidates, reverse=True)[:topk]:
                if anchor not in claims or u > claims[anchor][0]:
                    claims[anchor] = (u, row, t)
        for anchor, (_, row, t) in claims.items():
            mine = [claim for claim in claims.values() if claim[1] == row]
            score = t / max(c[2] for c in mine) * max(c[0] for c in mine)
            result[image, anchor] = (int(labels[image, row]), boxes[image, row].tolist(), score)
    return result


def iou(a: Any, b: Any) -> float:
    shared = max(0, min(a[2], b[2]) - max(a[0], b[0])) * max(0, min(a[3], b[3]) - max(a[1], b[1]))
    return float(shared / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - shared))


@pytest.mark.parametrize("seed", range(5))
def test_agrees_with_a_reference_that_loops(seed: int) -> None:
    rng = np.random.default_rng(seed)
    grid = np.stack(np.meshgrid(np.arange(8), np.arange(8)), -1).reshape(-1, 2) * 8.0 + 4
    half = rng.uniform(6, 20, (3, 64, 2))
    predicted = np.concatenate([grid - half, grid + half], -1) + rng.normal(0, 2, (3, 64, 4))
    low = rng.uniform(0, 40, (3, 7, 2))
    boxes = np.concatenate([low, low + rng.uniform(10, 40, (3, 7, 2))], -1)
    labels = rng.integers(-1, 3, (3, 7))
    logits = rng.normal(-2, 1, (3, 64, 3))

    f32 = partial(torch.tensor, dtype=torch.float32)
    found = as_dict(
        assign(f32(logits), f32(predicted), f32(grid), f32(boxes), torch.tensor(labels), 9)
    )
    boxes32 = boxes.astype(np.float32).astype(np.float64)
    expected = reference(1 / (1 + np.exp(-logits)), predicted, grid, boxes32, labels, 9)
    assert len(found) > 30
    assert set(found) == set(expected)
    for key, (label, box, score) in expected.items():
        assert found[key][:2] == (label, box)
        assert found[key][2] == pytest.approx(score, rel=1e-4)
