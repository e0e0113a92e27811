"""YOLOv6 as a family: its settings, its input and the names of its operations, without torch."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Annotated, Literal

from quantpipe.detector.families.contract import Family, height_and_width
from quantpipe.detector.families.yolov6.architecture import (
    STRIDES,
    Architecture,
    NetworkSize,
    operation_names,
)
from quantpipe.detector.families.yolov6.loss_settings import BoxLoss, Yolov6Loss
from quantpipe.detector.input_specification import InputSpecification
from quantpipe.errors import ConfigurationError
from quantpipe.schema import Between

Side = Between(64, 4096)

GRAY = 114  # around letterboxed images


@dataclass(frozen=True, kw_only=True)
class Yolov6Settings(NetworkSize):
    """The ``model`` group: the network's size, how its boxes are compared, pixels of the input."""

    family: Literal["yolov6"]
    iou_loss: BoxLoss
    image_size: Annotated[int, Side] | Annotated[tuple[int, int], Side]

    def __post_init__(self) -> None:
        for side in height_and_width(self.image_size):
            if side % STRIDES[-1]:
                nearby = round(side / STRIDES[-1]) * STRIDES[-1]
                raise ConfigurationError(
                    f"{side} is not a multiple of {STRIDES[-1]}",
                    path="image_size",
                    hint=f"take {nearby}",
                )
        architecture(self, num_classes=1)


def architecture(model: Yolov6Settings, *, num_classes: int) -> Architecture:
    """The detector's architecture for a number of classes."""
    size = {field.name: getattr(model, field.name) for field in fields(NetworkSize)}
    return Architecture(num_classes=num_classes, **size)


def input_of(size: tuple[int, int]) -> InputSpecification:
    """What a network takes that is trained on images of ``size``, height and width in pixels."""
    height, width = size
    return InputSpecification(
        height=height,
        width=width,
        colors="rgb",
        divisor=255.0,
        mean=(0.0, 0.0, 0.0),
        std=(1.0, 1.0, 1.0),
        resize="letterbox",
        align="center",
        padding=GRAY,
    )


def _input(model: Yolov6Settings) -> InputSpecification:
    return input_of(height_and_width(model.image_size))


def _operations(model: Yolov6Settings) -> tuple[str, ...]:
    return operation_names(architecture(model, num_classes=1))


YOLOV6 = Family(
    name="yolov6",
    settings=Yolov6Settings,
    input=_input,
    operations=_operations,
    forms=("repopt", "repvgg"),
    loss=Yolov6Loss,
    module="quantpipe.detector.families.yolov6.implementation",
)
