"""The ``model`` group: the size of the detector and of its input."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from quantpipe.detector.families.yolov6.architecture import STRIDES, Architecture
from quantpipe.detector.loss_numbers import BoxLoss
from quantpipe.errors import ConfigurationError
from quantpipe.schema import Between

Channels = Annotated[tuple[int, ...], Between(8, 4096)]
Repeats = Annotated[tuple[int, ...], Between(1, 64)]


@dataclass(frozen=True, kw_only=True)
class ModelSettings:
    """Base channels and repeats, scaled by ``width`` and ``depth``; pixels of the square input."""

    name: str
    depth: Annotated[float, Between(0, 4, open_low=True)]
    width: Annotated[float, Between(0, 4, open_low=True)]
    backbone_channels: Channels
    backbone_repeats: Repeats
    neck_channels: Channels
    neck_repeats: Repeats
    iou_loss: BoxLoss
    image_size: Annotated[int, Between(64, 4096)]

    def __post_init__(self) -> None:
        stride = STRIDES[-1]
        if self.image_size % stride:
            nearby = round(self.image_size / stride) * stride
            raise ConfigurationError(
                f"{self.image_size} is not a multiple of {stride}",
                path="image_size",
                hint=f"take {nearby}",
            )
        architecture(self, num_classes=1)


def architecture(model: ModelSettings, *, num_classes: int) -> Architecture:
    """The detector's architecture for a number of classes."""
    return Architecture(
        name=model.name,
        depth=model.depth,
        width=model.width,
        num_classes=num_classes,
        backbone_channels=model.backbone_channels,
        backbone_repeats=model.backbone_repeats,
        neck_channels=model.neck_channels,
        neck_repeats=model.neck_repeats,
    )
