"""The ``loss`` group of YOLOv6; light, for configurations hold it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from quantpipe.schema import Between, Fraction, NotNegative

BoxLoss = Literal["giou", "siou"]
"""Rezatofighi et al., arXiv 1902.09630; Gevorgyan, arXiv 2205.12740."""


@dataclass(frozen=True, kw_only=True)
class Yolov6Loss:
    """Task-aligned assignment, varifocal and IoU loss; see ``conf/loss``.

    Attributes:
        family: ``yolov6``.
        assignment_topk: Anchors a ground truth may have.
        assignment_alpha: Exponent of the class score in the alignment.
        assignment_beta: Exponent of the IoU in the alignment.
        focal_alpha: Weight of the background in the varifocal loss.
        focal_gamma: Its discount of easy background.
        classification_weight: Weight of the varifocal loss.
        box_weight: Weight of the box loss.
        box_loss: How boxes are compared.
    """

    family: Literal["yolov6"]
    assignment_topk: Annotated[int, Between(1, 1000)]
    assignment_alpha: NotNegative
    assignment_beta: NotNegative
    focal_alpha: Fraction
    focal_gamma: NotNegative
    classification_weight: NotNegative
    box_weight: NotNegative
    box_loss: BoxLoss
