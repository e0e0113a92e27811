"""What differs between TensorRT 8.6, 10 and 11, told from the version alone."""

from __future__ import annotations

import re
from dataclasses import dataclass
from importlib import metadata

from quantpipe.errors import MachineError

# The first one found tells the version; the wheels of each CUDA version have names of their own.
DISTRIBUTIONS = ("tensorrt", "tensorrt-cu13", "tensorrt-cu12", "tensorrt-cu11")
_OLDEST = (8, 6)
# Strong typing is there from 9.1; before 10.12 NVIDIA advises against it.
_STRONGLY_TYPED = (10, 12)
_FIRST_WITHOUT_LIMIT = (10, 2)


@dataclass(frozen=True, kw_only=True)
class TensorRtVersion:
    """What a version of TensorRT takes.

    Attributes:
        major: 8, 10, 11, ...
        minor: The second number.
        patch: The third number.
        types_in_graph: Precision is what the ONNX graph says (FP16 types, Q/DQ); otherwise builder
            flags allow it.
        implicit_quantization: Ranges may come from a calibration cache.
        opset: The ONNX opset to export for it.
        newest_opset: The newest that its parser is known to take, where that is a limit.
    """

    major: int
    minor: int
    patch: int
    types_in_graph: bool
    implicit_quantization: bool
    opset: int
    newest_opset: int | None

    def __str__(self) -> str:
        return f"TensorRT {self.major}.{self.minor}"

    @property
    def number(self) -> int:
        """The version as one number, as calibration caches hold it: 8601, 100300, 101601."""
        thousands = 10_000 if self.major >= 10 else 1_000
        return self.major * thousands + self.minor * 100 + self.patch

    def takes_types_from_graph(self, *, calibration_cache: bool) -> bool:
        """Whether a network is strongly typed: ranges beside the graph need builder flags."""
        return self.types_in_graph and not (calibration_cache and self.implicit_quantization)


def tensorrt_version(text: str) -> TensorRtVersion:
    """Reads a version such as ``10.16.0.5``, also after the name of the library.

    Raises:
        MachineError: It is older than 8.6, or no version.
    """
    match = re.search(r"(\d+)\.(\d+)(?:\.(\d+))?", text)
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
        patch=int(match[3] or 0),
        types_in_graph=number >= _STRONGLY_TYPED,
        implicit_quantization=number[0] <= 10,
        # 8.6 parses up to 17; float16 scales need 19.
        opset=20 if number >= _STRONGLY_TYPED else 17,
        newest_opset=_newest_opset(number),
    )


def installed_tensorrt() -> TensorRtVersion | None:
    """Returns the version that is installed here, without importing it; None where none is.

    Raises:
        MachineError: It is older than 8.6.
    """
    for distribution in DISTRIBUTIONS:
        try:
            return tensorrt_version(metadata.version(distribution))
        except metadata.PackageNotFoundError:
            continue
    return None


def _newest_opset(number: tuple[int, int]) -> int | None:
    if number < (10, 0):
        return 17
    return 20 if number < _FIRST_WITHOUT_LIMIT else None
