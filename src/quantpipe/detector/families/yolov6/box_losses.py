"""How badly a predicted box fits its ground truth: IoU, GIoU and SIoU."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

# Added to areas and lengths in pixels, far below a box of one pixel.
_EPS = 1e-7


class Overlap(NamedTuple):
    """What two aligned sets of boxes have in common, per pair."""

    iou: Tensor
    union: Tensor
    hull: Tensor  # (..., 2): width and height of the smallest box around both


def overlap(predicted: Tensor, target: Tensor) -> Overlap:
    """Compares aligned boxes.

    Args:
        predicted: (..., 4) x1, y1, x2, y2; a box turned inside out has no area.
        target: (..., 4) in the same unit.
    """
    p_low, p_high = predicted[..., :2], predicted[..., 2:]
    t_low, t_high = target[..., :2], target[..., 2:]
    shared = (torch.minimum(p_high, t_high) - torch.maximum(p_low, t_low)).clamp_min(0).prod(-1)
    areas = (p_high - p_low).clamp_min(0).prod(-1) + (t_high - t_low).prod(-1)
    union = areas - shared
    hull = torch.maximum(p_high, t_high) - torch.minimum(p_low, t_low)
    return Overlap(shared / (union + _EPS), union, hull)


def giou_loss(predicted: Tensor, target: Tensor) -> Tensor:
    """1 - GIoU of aligned boxes (Rezatofighi et al., arXiv 1902.09630, algorithm 1).

    Args:
        predicted: (N, 4) x1, y1, x2, y2.
        target: (N, 4) with positive width and height.

    Returns:
        (N,) between 0 (equal) and 2.
    """
    iou, union, hull = overlap(predicted, target)
    hull_area = hull.prod(-1) + _EPS
    return 1 - iou + (hull_area - union) / hull_area


def siou_loss(predicted: Tensor, target: Tensor) -> Tensor:
    """1 - IoU + (distance cost + shape cost) / 2 (Gevorgyan, arXiv 2205.12740, section 2).

    The angle cost 1 - 2 sin^2(arcsin(x) - pi/4) equals sin(2 arcsin(x)), which is
    2 |dx dy| / (dx^2 + dy^2) and has no infinite slope where the centers are level.

    Args:
        predicted: (N, 4) x1, y1, x2, y2.
        target: (N, 4) with positive width and height.

    Returns:
        (N,) from 0 (equal).
    """
    iou, _, hull = overlap(predicted, target)
    offset = (target[..., :2] + target[..., 2:] - predicted[..., :2] - predicted[..., 2:]) / 2
    squares = offset.square()
    angle = 2 * offset.prod(-1).abs() / (squares.sum(-1) + _EPS)
    gamma = (2 - angle).unsqueeze(-1)
    distance = (1 - torch.exp(-gamma * squares / (hull.square() + _EPS))).sum(-1)

    p_size = (predicted[..., 2:] - predicted[..., :2]).clamp_min(0)
    t_size = target[..., 2:] - target[..., :2]
    omega = (p_size - t_size).abs() / torch.maximum(p_size, t_size)
    shape = (1 - torch.exp(-omega)).pow(4).sum(-1)
    return 1 - iou + (distance + shape) / 2


BOX_LOSSES = {"giou": giou_loss, "siou": siou_loss}
"""The box losses by the name that a recipe gives."""
