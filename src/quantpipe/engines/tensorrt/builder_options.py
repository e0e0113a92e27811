"""What a TensorRT builder is told."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, kw_only=True)
class BuilderOptions:
    """What a builder is told.

    Attributes:
        flags: Precisions that a weakly typed network may use: of ``FP16`` and ``INT8``.
        workspace: Scratch memory in bytes.
        optimization_level: 0 to 5.
        input_name: The network's input.
        shapes: Of the input; each gets an optimization profile that takes it and nothing else.
        calibrator: An ``IInt8Calibrator`` where ranges come from a calibration cache.
        timings: A serialized timing cache to start from; may be empty.
    """

    flags: tuple[str, ...]
    workspace: int
    optimization_level: int
    input_name: str
    shapes: tuple[tuple[int, ...], ...]
    calibrator: Any
    timings: bytes
