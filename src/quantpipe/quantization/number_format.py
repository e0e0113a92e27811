"""Number formats: what a quantized value is stored as, and what networks run in.

Whatever depends on the format takes it as a value: calibration, fake quantization, the rounding of
weights, the scale cache, and the Q/DQ pairs of a graph. What an engine can take is its placement's
to say (:mod:`quantpipe.quantization.placement`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, kw_only=True)
class NumberFormat:
    """What codes there are, and which of them a range reaches.

    A value x is stored as the code nearest to x / scale + zero_point, scale = amax / max_level; of
    two that are equally near, the even one.

    Attributes:
        name: In scale caches.
        kind: Whether codes lie evenly (``integer``) or closer about zero (``float``).
        bits: Of a code.
        signed: Whether values below zero have codes.
        max_level: The code of amax, less the zero point. Ranges are symmetric: that of -amax, where
            the format is signed, is -max_level, one more than the least that two's complement has.
        zero_point: The code of zero.
        onnx_type: The element type in ONNX, a name of ``onnx.TensorProto``.
    """

    name: str
    kind: Literal["integer", "float"]
    bits: int
    signed: bool
    max_level: int
    zero_point: int
    onnx_type: str

    @property
    def floor_amax(self) -> float:
        """A range for values that are all zero.

        Its scale is the smallest normal half-precision number, so that an FP16 graph can hold it.
        """
        return self.max_level * 2.0**-14


INT8 = NumberFormat(
    name="int8",
    kind="integer",
    bits=8,
    signed=True,
    max_level=127,
    zero_point=0,
    onnx_type="INT8",
)

# Twice as fine as INT8 over 0..amax.
UINT8 = NumberFormat(
    name="uint8",
    kind="integer",
    bits=8,
    signed=False,
    max_level=255,
    zero_point=0,
    onnx_type="UINT8",
)

# The grid of INT8, in the type that x64 kernels are written for.
SHIFTED_INT8 = NumberFormat(
    name="shifted_int8",
    kind="integer",
    bits=8,
    signed=True,
    max_level=127,
    zero_point=128,
    onnx_type="UINT8",
)

Precision = Literal["fp32", "half", "int8"]
FloatPrecision = Literal["fp32", "half"]

PRECISIONS: Mapping[Precision, NumberFormat | None] = {"fp32": None, "half": None, "int8": INT8}
"""What a network may run in: the format of its ranges, or None where it runs in float."""

NUMBER_FORMATS: Mapping[str, NumberFormat] = {
    name: number_format for name, number_format in PRECISIONS.items() if number_format is not None
}
"""Those that ranges are calibrated for."""

CALIBRATED = INT8
"""The one that calibration takes, and that plans call what is quantized."""


def is_quantized(precision: str) -> bool:
    """Whether a network or a layer of this precision runs in a number format, not in float."""
    return precision in NUMBER_FORMATS
