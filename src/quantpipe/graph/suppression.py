"""What suppression keeps, whether it is the last part of a graph or comes after it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from quantpipe.schema import Between, Fraction


@dataclass(frozen=True, kw_only=True)
class Suppression:
    """How predictions become detections.

    Attributes:
        confidence: Only scores above it count.
        iou: A box that overlaps a more confident one of its class by more than this is dropped.
        max_detections: The most detections of an image, the most confident ones; K.
    """

    confidence: Fraction
    iou: Fraction
    max_detections: Annotated[int, Between(1)]
