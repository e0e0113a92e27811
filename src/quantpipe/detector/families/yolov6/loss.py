"""The detection loss: varifocal classification and IoU regression on assigned anchors."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from quantpipe.detector.families.implementation import LossValue, RawPrediction
from quantpipe.detector.families.yolov6.anchors import anchor_points, decode_boxes
from quantpipe.detector.families.yolov6.architecture import STRIDES
from quantpipe.detector.families.yolov6.assignment import task_aligned_assignment
from quantpipe.detector.families.yolov6.box_losses import BOX_LOSSES
from quantpipe.detector.families.yolov6.loss_settings import Yolov6Loss


def varifocal_loss(logits: Tensor, targets: Tensor, *, alpha: float, gamma: float) -> Tensor:
    """Cross entropy weighted by the target where it is positive, else by alpha p^gamma.

    Zhang et al., "VarifocalNet", arXiv 2008.13367, equation 2.

    Args:
        logits: Class logits of any shape.
        targets: IoU-aware class scores in 0..1, same shape; 0 is background.
        alpha: Weight of the background.
        gamma: How much easy background is discounted.

    Returns:
        The loss of each element.
    """
    cross_entropy = functional.binary_cross_entropy_with_logits(logits, targets, reduction="none")
    background = alpha * logits.sigmoid().pow(gamma)
    return torch.where(targets > 0, targets, background) * cross_entropy


@dataclass(frozen=True, kw_only=True)
class TaskAlignedLoss:
    """Assignment and losses of one batch, always in float32."""

    strides: tuple[int, ...]
    settings: Yolov6Loss

    def __call__(
        self,
        prediction: RawPrediction,
        boxes: Tensor,
        labels: Tensor,
        *,
        over_processes: Callable[[Tensor], Tensor] = lambda local: local,
        assigned_by: RawPrediction | None = None,
    ) -> LossValue:
        """Returns the loss, divided by the sum of the target scores (at least 1).

        The losses of all ranks add up to the loss of their batches as one.

        Args:
            prediction: Class logits (B, A, C), distances (B, A, 4) in cells, neck outputs.
            boxes: (B, M, 4) x1, y1, x2, y2 in pixels.
            labels: (B, M), negative where a row is padding.
            over_processes: Sums a value over the ranks that share the batch.
            assigned_by: Whose prediction decides the targets; None: this one's own.
        """
        settings, logits = self.settings, prediction.class_logits.float()
        sizes = [(feature.shape[-2], feature.shape[-1]) for feature in prediction.features]
        points, strides = anchor_points(sizes, self.strides, logits.device)
        predicted = decode_boxes(prediction.distances.float(), points, strides)
        judge = prediction if assigned_by is None else assigned_by
        positive = task_aligned_assignment(
            judge.class_logits.float(),
            decode_boxes(judge.distances.float(), points, strides),
            points,
            boxes,
            labels,
            topk=settings.assignment_topk,
            alpha=settings.assignment_alpha,
            beta=settings.assignment_beta,
        )
        targets = torch.zeros_like(logits)
        targets[positive.image, positive.anchor, positive.label] = positive.score
        # The floor keeps an image with hardly anything in it from having a huge loss.
        total_score = over_processes(positive.score.sum()).clamp_min(1)

        focal = varifocal_loss(
            logits, targets, alpha=settings.focal_alpha, gamma=settings.focal_gamma
        )
        misfit = BOX_LOSSES[settings.box_loss](
            predicted[positive.image, positive.anchor], positive.box
        )
        classification = settings.classification_weight * focal.sum() / total_score
        box = settings.box_weight * (misfit * positive.score).sum() / total_score
        return LossValue(classification + box, classification, box)


def detection_loss(settings: Yolov6Loss) -> TaskAlignedLoss:
    """The loss for the three levels of the head."""
    return TaskAlignedLoss(strides=STRIDES, settings=settings)
