"""A family of five layers that resembles no other: what one writes to add a family.

Its input is 48 x 80, BGR, normalized around 0 and stretched; one grid of cells of 8 pixels, with
objectness and boxes of its own coding; operations that planning does not know.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor, nn

from quantpipe.detector.checkpoint import Checkpoint, require_tensors
from quantpipe.detector.families.contract import Family, height_and_width
from quantpipe.detector.families.implementation import (
    DetectorNetwork,
    Implementation,
    RawPrediction,
)
from quantpipe.detector.input_specification import InputSpecification

CELL = 8
MEAN, STD = (103.53, 116.28, 123.675), (57.375, 57.12, 58.395)


@dataclass(frozen=True, kw_only=True)
class ToySettings:
    """The ``model`` group."""

    family: Literal["toy"]
    name: str
    image_size: tuple[int, int]


class ToyNetwork(DetectorNetwork):
    """Five convolutions; the last gives, for each cell, 5 + C values of its own coding.

    These are the objectness, the center's offset in cells by a tangent, width and height as shares
    of the image, and the classes.
    """

    def __init__(self, num_classes: int):
        super().__init__()
        widths = (3, 8, 8, 16, 16)
        self.layers = nn.Sequential()
        for number, (before, after) in enumerate(pairwise(widths)):
            stride = 2 if number < 3 else 1
            self.layers.append(nn.Conv2d(before, after, 3, stride, 1))
            self.layers.append(nn.ReLU())
        self.head = nn.Conv2d(widths[-1], 5 + num_classes, 1)

    def raw(self, images: Tensor) -> Tensor:
        """(B, 5 + C, H / 8, W / 8), before anything is decoded."""
        values: Tensor = self.head(self.layers(images))
        return values

    def forward(self, images: Tensor) -> Tensor:
        """Detects."""
        raw = self.raw(images)
        center, size = _boxes(raw, images)
        scores = raw[:, [0, *range(5, raw.shape[1])]].sigmoid().flatten(2)
        return torch.cat([center, size, scores], dim=1).transpose(1, 2)

    def predict(self, images: Tensor) -> RawPrediction:
        """The same as logits of scores, and the sides' distances from the cells' centers."""
        raw = self.raw(images)
        center, size = _boxes(raw, images)
        offset = center - _cells(raw)
        sides = torch.cat([size / 2 - offset, size / 2 + offset], dim=1)
        scores = (raw[:, :1].sigmoid() * raw[:, 5:].sigmoid()).flatten(2)
        return RawPrediction(scores.logit(1e-6).transpose(1, 2), sides.transpose(1, 2), (raw,))

    def may_use_channels_last(self, device: torch.device) -> bool:
        """It has not been tried."""
        return False


def _cells(raw: Tensor) -> Tensor:
    """Centers of the cells, (2, A), x and y in pixels."""
    rows, columns = raw.shape[-2:]
    y, x = torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing="ij")
    return (torch.stack([x, y]).flatten(1).to(raw) + 0.5) * CELL


def _boxes(raw: Tensor, images: Tensor) -> tuple[Tensor, Tensor]:
    """Centers and sizes of the boxes, each (B, 2, A) in pixels."""
    sides = torch.tensor([images.shape[3], images.shape[2]]).to(raw).view(1, 2, 1)
    center = _cells(raw) + raw[:, 1:3].flatten(2).tanh() * CELL
    return center, raw[:, 3:5].flatten(2).sigmoid() * sides


def toy_input(size: tuple[int, int] = (48, 80)) -> InputSpecification:
    """What it takes."""
    height, width = size
    return InputSpecification(
        height=height,
        width=width,
        colors="bgr",
        divisor=1.0,
        mean=MEAN,
        std=STD,
        resize="stretch",
        align="top_left",
        padding=0,
    )


def toy_checkpoint(class_names: Sequence[str], *, seed: int = 0) -> Checkpoint:
    """Random weights that answer to what they see."""
    torch_state = torch.random.get_rng_state()
    torch.manual_seed(seed)
    network = ToyNetwork(len(class_names))
    torch.random.set_rng_state(torch_state)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.mul_(2.0)
    return Checkpoint(
        family="toy",
        settings={"cell": CELL},
        class_names=tuple(class_names),
        input=toy_input(),
        tensors=dict(network.state_dict()),
        provenance={"step": "test"},
    )


def _network(checkpoint: Checkpoint) -> ToyNetwork:
    with torch.device("meta"):
        return ToyNetwork(len(checkpoint.class_names))


def _check(checkpoint: Checkpoint) -> None:
    require_tensors(checkpoint, _network(checkpoint).state_dict())


def _restore(checkpoint: Checkpoint) -> ToyNetwork:
    network = _network(checkpoint)
    network.load_state_dict(checkpoint.tensors, assign=True)
    return network.eval()


def _operations(checkpoint: Checkpoint) -> tuple[str, ...]:
    return tuple(
        name
        for name, module in _network(checkpoint).named_modules()
        if isinstance(module, nn.Conv2d)
    )


TOY = Family(
    name="toy",
    settings=ToySettings,
    input=lambda model: toy_input(height_and_width(model.image_size)),
    operations=lambda _: None,
    forms=(),
    loss=None,
    module=__name__,
)

IMPLEMENTATION = Implementation(
    check=_check,
    require_model=lambda *_: None,
    restore=_restore,
    deploy=lambda checkpoint: checkpoint,
    operations=_operations,
    training=None,
    released=None,
)
