"""What a family of detectors gives to everything that trains, quantizes, exports or measures it.

A family has two halves. The light one (:class:`Family`) is read whenever a configuration is
checked: it imports neither torch nor ONNX. The heavy one (:class:`Implementation`) is imported when
there is work. Both are tables of functions. What everybody else knows of a detector is said here.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Any, Protocol

from quantpipe.detector.input_specification import InputSpecification

if TYPE_CHECKING:
    from quantpipe.detector.families.implementation import Implementation

ImageSize = int | tuple[int, int]
"""Pixels: the side of a square, or height and width."""


class FamilySettings(Protocol):
    """The ``model`` group of every family: a frozen dataclass without defaults.

    It is told apart by ``family``, whose type is a ``Literal`` of the family's name.
    """

    @property
    def family(self) -> str:
        """Key of the family in the table."""

    @property
    def name(self) -> str:
        """Of the model, as people say it."""

    @property
    def image_size(self) -> ImageSize:
        """Of the input."""


class FamilyLoss(Protocol):
    """The ``loss`` group of a family: a frozen dataclass without defaults, told apart as models."""

    @property
    def family(self) -> str:
        """Key of the family in the table."""


@dataclass(frozen=True, kw_only=True)
class Family:
    """The light half of a family.

    Attributes:
        name: Key in the table, and ``family:`` in ``conf/model/*.yaml`` and in checkpoints.
        settings: Type of the ``model`` group; see :class:`FamilySettings`.
        input: What the network of some settings takes.
        operations: The quantizable operations of the deployed network of some settings, as paths of
            modules in the order of their execution; None where that is not known before a file is
            read.
        forms: Of the network that is trained from labels, the names that its ``training`` knows;
            none where it cannot be.
        loss: Type of the ``loss`` group, see :class:`FamilyLoss`; None where there is no loss.
        module: Where ``IMPLEMENTATION`` stands, the heavy half.
    """

    name: str
    settings: type[Any]
    input: Callable[[Any], InputSpecification]
    operations: Callable[[Any], tuple[str, ...] | None]
    forms: tuple[str, ...]
    loss: type[Any] | None
    module: str

    def implementation(self) -> Implementation:
        """The heavy half."""
        found: Implementation = import_module(self.module).IMPLEMENTATION
        return found


def height_and_width(image_size: ImageSize) -> tuple[int, int]:
    """Pixels of an image whose size is given as people write it."""
    return (image_size, image_size) if isinstance(image_size, int) else image_size
