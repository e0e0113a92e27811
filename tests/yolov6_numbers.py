"""YOLOv6 as released, narrowed as a test likes, and the numbers of its loss."""

from __future__ import annotations

from quantpipe.detector.families.yolov6.architecture import Architecture
from quantpipe.detector.families.yolov6.loss_settings import Yolov6Loss

LOSS_SETTINGS = Yolov6Loss(
    family="yolov6",
    assignment_topk=13,
    assignment_alpha=1.0,
    assignment_beta=6.0,
    focal_alpha=0.75,
    focal_gamma=2.0,
    classification_weight=1.0,
    box_weight=2.5,
    box_loss="giou",
)


def narrowed(*, depth: float, width: float, num_classes: int) -> Architecture:
    """YOLOv6-n, s and m have depths 0.33, 0.33, 0.6 and widths 0.25, 0.5, 0.75."""
    return Architecture(
        name="narrowed",
        depth=depth,
        width=width,
        num_classes=num_classes,
        backbone_channels=(64, 128, 256, 512, 1024),
        backbone_repeats=(1, 6, 12, 18, 6),
        neck_channels=(256, 128, 128, 256, 256, 512),
        neck_repeats=(12, 12, 12, 12),
    )
