"""What networks take, for tests that need no network."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from quantpipe.detector.input_specification import InputSpecification

_SQUARE = InputSpecification(
    height=64,
    width=64,
    colors="rgb",
    divisor=255.0,
    mean=(0.0, 0.0, 0.0),
    std=(1.0, 1.0, 1.0),
    resize="letterbox",
    align="center",
    padding=114,
)


def letterboxed(height: int, width: int | None = None, **changes: Any) -> InputSpecification:
    """RGB from 0 to 1, letterboxed in the center of gray; a square where no width is given."""
    return replace(_SQUARE, height=height, width=height if width is None else width, **changes)
