"""Which anchor answers for which ground-truth box: task-aligned assignment.

Feng et al., "TOOD: Task-aligned One-stage Object Detection", arXiv 2108.07755, section 3.2.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from quantpipe.detector.families.yolov6.box_losses import overlap


class Assignment(NamedTuple):
    """The positive anchors of a batch, P of them; every other anchor is background."""

    image: Tensor  # (P,) int64, row in the batch
    anchor: Tensor  # (P,) int64
    label: Tensor  # (P,) int64
    box: Tensor  # (P, 4) float32, x1 y1 x2 y2 in pixels
    score: Tensor  # (P,) float32 in 0..1, the normalized alignment


@torch.no_grad()
def task_aligned_assignment(
    class_logits: Tensor,
    predicted_boxes: Tensor,
    points: Tensor,
    boxes: Tensor,
    labels: Tensor,
    *,
    topk: int,
    alpha: float,
    beta: float,
) -> Assignment:
    """Gives each ground truth its ``topk`` best aligned anchors among those inside its box.

    Alignment is t = s^alpha u^beta (equation 4) with s the score of the box's class and u the IoU.
    An anchor wanted by several boxes goes to the one it overlaps most. Scores are t, scaled
    so that the largest of a ground truth equals its largest IoU.

    Args:
        class_logits: (B, A, C) before the sigmoid.
        predicted_boxes: (B, A, 4) x1, y1, x2, y2 in pixels.
        points: (A, 2) anchor centers in pixels.
        boxes: (B, M, 4) ground truth in pixels.
        labels: (B, M) class of each box, negative where a row is padding.
        topk: Anchors a ground truth may have.
        alpha: Exponent of the class score.
        beta: Exponent of the IoU.
    """
    num_anchors = class_logits.shape[1]
    image, row = (labels >= 0).nonzero(as_tuple=True)
    truth_box, truth_label = boxes[image, row].float(), labels[image, row]

    truth, anchor = _inside(points, truth_box).nonzero(as_tuple=True)
    candidate_image = image[truth]
    score = class_logits[candidate_image, anchor, truth_label[truth]].float().sigmoid()
    iou = overlap(predicted_boxes[candidate_image, anchor].float(), truth_box[truth]).iou
    alignment = score.pow(alpha) * iou.pow(beta)

    # One row a ground truth; -1 marks the anchors outside, so they are never among the best.
    table = alignment.new_full((len(image), num_anchors), -1.0)
    table[truth, anchor] = alignment
    chosen = _best_in_rows(table, topk)[truth, anchor]
    truth, anchor, iou, alignment = truth[chosen], anchor[chosen], iou[chosen], alignment[chosen]

    # Numbered through the batch: anchors of different images are never in conflict.
    claimed = image[truth] * num_anchors + anchor
    num_claimable = len(labels) * num_anchors
    won = _strongest_claims(claimed, truth, iou, len(image), num_anchors=num_claimable)
    truth, anchor, iou, alignment = truth[won], anchor[won], iou[won], alignment[won]
    score = _normalized(alignment, iou, truth, len(image))
    return Assignment(image[truth], anchor, truth_label[truth], truth_box[truth], score)


def _inside(points: Tensor, boxes: Tensor) -> Tensor:
    """(G, A): whether a point lies strictly inside a box."""
    x, y = points[:, 0], points[:, 1]
    left, top, right, bottom = boxes.unsqueeze(-1).unbind(1)
    return (x > left) & (x < right) & (y > top) & (y < bottom)


def _best_in_rows(table: Tensor, count: int) -> Tensor:
    """Marks the ``count`` largest of each row."""
    best = table.topk(min(count, table.shape[1]), dim=1, sorted=False).indices
    return torch.zeros_like(table, dtype=torch.bool).scatter_(1, best, True)


def _strongest_claims(
    anchor: Tensor, truth: Tensor, iou: Tensor, num_truths: int, *, num_anchors: int
) -> Tensor:
    """Marks, of the claims on one anchor, the largest IoU; of equal ones the first ground truth."""
    largest = iou.new_zeros(num_anchors).scatter_reduce(0, anchor, iou, "amax")
    rank = torch.where(iou == largest[anchor], truth, num_truths)
    first = truth.new_full((num_anchors,), num_truths).scatter_reduce(0, anchor, rank, "amin")
    return truth == first[anchor]


def _normalized(alignment: Tensor, iou: Tensor, truth: Tensor, num_truths: int) -> Tensor:
    """Alignment over its largest in the ground truth, times the largest IoU there (section 3.2)."""
    zeros = alignment.new_zeros(num_truths)
    largest = zeros.scatter_reduce(0, truth, alignment, "amax")
    largest_iou = zeros.scatter_reduce(0, truth, iou, "amax")
    # IoUs below 1e-6 underflow to an alignment of zero: such a ground truth gets no weight.
    tiny = torch.finfo(alignment.dtype).tiny
    return alignment / largest.clamp_min(tiny)[truth] * largest_iou[truth]
