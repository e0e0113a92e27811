"""What a detector is made of, as plain numbers: enough to check a configuration without torch.

Widths, depths and names follow YOLOv6 (arXiv 2209.02976).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Literal

from quantpipe.errors import ConfigurationError
from quantpipe.schema import Between

STRIDES = (8, 16, 32)
"""Pixels per cell of the three prediction levels."""

BlockForm = Literal["repvgg", "linear_add", "repopt", "deploy"]
"""How every 3x3 block is parameterized; the function it can compute is the same."""

Scale = Annotated[float, Between(0, 4, open_low=True)]
Channels = Annotated[tuple[int, ...], Between(8, 4096)]
Repeats = Annotated[tuple[int, ...], Between(1, 64)]

# Of a checkpoint that others may have written: only what could not be built is refused.
MAX_SCALE = 8.0
MAX_COUNT = 4096


@dataclass(frozen=True, kw_only=True)
class NetworkSize:
    """The size of a network: what the ``model`` group says and a checkpoint's header repeats.

    Base channels and repeats are those of the full-size network; ``width`` and ``depth`` scale
    them (:func:`scaled_channels`, :func:`scaled_repeats`).
    """

    name: str
    depth: Scale
    width: Scale
    backbone_channels: Channels
    backbone_repeats: Repeats
    neck_channels: Channels
    neck_repeats: Repeats


@dataclass(frozen=True, kw_only=True)
class Architecture(NetworkSize):
    """A network's size and its number of classes: all that it takes to build it.

    Raises:
        ConfigurationError: A value is out of range or a tuple has the wrong length.
    """

    num_classes: int

    def __post_init__(self) -> None:
        for field in ("depth", "width"):
            value = getattr(self, field)
            if not (math.isfinite(value) and 0 < value <= MAX_SCALE):
                raise ConfigurationError(
                    f"{value} is not above 0 and at most {MAX_SCALE:g}", path=f"model.{field}"
                )
        _check_count("num_classes", self.num_classes)
        for field, length in _TUPLE_LENGTHS.items():
            _check_counts(field, getattr(self, field), length)

    @property
    def backbone_widths(self) -> tuple[int, ...]:
        """Channels of the stem and of the four backbone stages."""
        return tuple(scaled_channels(base, self.width) for base in self.backbone_channels)

    @property
    def backbone_depths(self) -> tuple[int, ...]:
        """Blocks of the stem and of the four backbone stages (down-sampling block not counted)."""
        return tuple(scaled_repeats(base, self.depth) for base in self.backbone_repeats)

    @property
    def neck_widths(self) -> tuple[int, ...]:
        """Channels of p4, p3, downsample2, n3 (P4 out), downsample1 and n4 (P5 out)."""
        return tuple(scaled_channels(base, self.width) for base in self.neck_channels)

    @property
    def neck_depths(self) -> tuple[int, ...]:
        """Blocks of p4, p3, n3 and n4."""
        return tuple(scaled_repeats(base, self.depth) for base in self.neck_repeats)


_TUPLE_LENGTHS = {
    "backbone_channels": 5,
    "backbone_repeats": 5,
    "neck_channels": 6,
    "neck_repeats": 4,
}


def _check_counts(field: str, values: tuple[int, ...], length: int) -> None:
    if len(values) != length:
        raise ConfigurationError(
            f"{len(values)} values where {length} are needed", path=f"model.{field}"
        )
    for value in values:
        _check_count(field, value)


def _check_count(field: str, value: int) -> None:
    # The type is checked too: values also come out of a checkpoint's JSON header.
    if not isinstance(value, int) or not 1 <= value <= MAX_COUNT:
        raise ConfigurationError(
            f"{value} is not a whole number from 1 to {MAX_COUNT}", path=f"model.{field}"
        )


def scaled_channels(base: int, width: float) -> int:
    """Returns ``base * width`` rounded up to a multiple of 8."""
    return math.ceil(base * width / 8) * 8


def scaled_repeats(base: int, depth: float) -> int:
    """Returns ``base * depth`` rounded, at least 1; a single block stays single."""
    return max(round(base * depth), 1) if base > 1 else base


def operation_names(architecture: Architecture) -> tuple[str, ...]:
    """Returns the quantizable operations of the deployed network in execution order.

    These are the module paths of every Conv2d, ConvTranspose2d and MaxPool2d of the ``deploy``
    form. ``detect.proj_conv`` takes no part in the computation and is not among them.
    """
    return (*_backbone_names(architecture), *_neck_names(architecture), *_head_names())


def _backbone_names(architecture: Architecture) -> Iterator[str]:
    yield "backbone.stem.conv"
    for stage, depth in enumerate(architecture.backbone_depths[1:], start=2):
        yield f"backbone.ERBlock_{stage}.0.conv"
        yield from _run_names(f"backbone.ERBlock_{stage}.1", depth)
    sppf = "backbone.ERBlock_5.2.sppf"
    yield from (f"{sppf}.cv1.block.conv", f"{sppf}.m", f"{sppf}.cv2.block.conv")


def _neck_names(architecture: Architecture) -> Iterator[str]:
    p4, p3, n3, n4 = architecture.neck_depths
    yield "neck.reduce_layer0.block.conv"
    yield "neck.upsample0.upsample_transpose"
    yield from _run_names("neck.Rep_p4", p4)
    yield "neck.reduce_layer1.block.conv"
    yield "neck.upsample1.upsample_transpose"
    yield from _run_names("neck.Rep_p3", p3)
    yield "neck.downsample2.block.conv"
    yield from _run_names("neck.Rep_n3", n3)
    yield "neck.downsample1.block.conv"
    yield from _run_names("neck.Rep_n4", n4)


def _head_names() -> Iterator[str]:
    for level in range(len(STRIDES)):
        yield f"detect.stems.{level}.block.conv"
        for branch in ("cls", "reg"):
            yield f"detect.{branch}_convs.{level}.block.conv"
            yield f"detect.{branch}_preds.{level}"


def _run_names(path: str, depth: int) -> Iterator[str]:
    yield f"{path}.conv1.conv"
    yield from (f"{path}.block.{index}.conv" for index in range(depth - 1))
