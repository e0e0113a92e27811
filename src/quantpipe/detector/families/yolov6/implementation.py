"""YOLOv6 as a family: networks, loss and released files."""

from __future__ import annotations

from quantpipe.detector.checkpoint import Checkpoint
from quantpipe.detector.families.implementation import Implementation, Released, Training
from quantpipe.detector.families.yolov6 import architecture
from quantpipe.detector.families.yolov6.checkpoint import (
    check,
    deploy,
    description,
    require_model,
    restore,
)
from quantpipe.detector.families.yolov6.loss import detection_loss
from quantpipe.detector.families.yolov6.released import (
    IDLE,
    fold_factors,
    read_released_checkpoint,
)
from quantpipe.detector.families.yolov6.released_names import operation_namer
from quantpipe.detector.families.yolov6.releases import describe
from quantpipe.detector.families.yolov6.training import start


def _operations(checkpoint: Checkpoint) -> tuple[str, ...]:
    return architecture.operation_names(description(checkpoint).architecture)


IMPLEMENTATION = Implementation(
    check=check,
    require_model=require_model,
    restore=restore,
    deploy=deploy,
    operations=_operations,
    training=Training(loss=detection_loss, start=start),
    released=Released(
        checkpoint=read_released_checkpoint,
        operation_namer=operation_namer,
        fold_factors=fold_factors,
        describe=describe,
        idle=IDLE,
    ),
)
