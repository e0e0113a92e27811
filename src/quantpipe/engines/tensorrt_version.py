"""What differs between TensorRT 8.6, 10 and 11, told from the version alone."""

from __future__ import annotations

import re
from dataclasses import dataclass

from quantpipe.errors import MachineError

_OLDEST = (8, 6)
# Strong typing is there from 9.1; before 10.12 NVIDIA advises against it.
_STRONGLY_TYPED = (10, 12)


@dataclass(frozen=True, kw_only=True)
class TensorRtVersion:
    """What a version of TensorRT takes.

    Attributes:
        major: 8, 10, 11, ...
        minor: The second number.
        types_in_graph: Precision is what the ONNX graph says (FP16 types, Q/DQ); otherwise builder
            flags allow it.
        implicit_quantization: Ranges may come from a calibration cache.
        opset: The ONNX opset to export for it.
    """

    major: int
    minor: int
    types_in_graph: bool
    implicit_quantization: bool
    opset: int


def tensorrt_version(text: str) -> TensorRtVersion:
    """Reads a version such as ``10.16.0.5``, also after the name of the library.

    Raises:
        MachineError: It is older than 8.6, or no version.
    """
    match = re.search(r"(\d+)\.(\d+)", text)
    if match is None:
        raise MachineError(f"'{text}' is no version of TensorRT")
    number = (int(match[1]), int(match[2]))
    if number < _OLDEST:
        raise MachineError(
            f"TensorRT {match[0]} is older than {_OLDEST[0]}.{_OLDEST[1]}",
            hint="pip install 'quantpipe[tensorrt]'",
        )
    return TensorRtVersion(
        major=number[0],
        minor=number[1],
        types_in_graph=number >= _STRONGLY_TYPED,
        implicit_quantization=number[0] <= 10,
        # 8.6 parses up to 17; float16 scales need 19.
        opset=20 if number >= _STRONGLY_TYPED else 17,
    )
