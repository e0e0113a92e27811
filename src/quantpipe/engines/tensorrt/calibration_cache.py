"""The text in which TensorRT 10 and older keep the ranges of implicit quantization.

The first line is ``TRT-<version>-<algorithm>``; each further one ``<tensor>: <scale>``, the scale
as the eight hexadecimal digits of a big-endian IEEE 754 float32, and amax = 127 * scale.
"""

from __future__ import annotations

import math
import re
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import onnx
import onnx_ir as ir

from quantpipe.errors import ArtifactError
from quantpipe.files import write_atomic
from quantpipe.given_files import read_text
from quantpipe.graph.onnx_file import read_onnx
from quantpipe.graph.operations import graph_inputs, operation_nodes, require_operations
from quantpipe.quantization.number_format import INT8
from quantpipe.quantization.precision_plan import PrecisionPlan
from quantpipe.quantization.scale_cache import ScaleCache

Algorithm = Literal["EntropyCalibration2", "MinMaxCalibration"]
_HEADER = re.compile(r"TRT-(\d+)-(\w+)")
_SCALE = re.compile(r"[0-9a-fA-F]{1,8}")


@dataclass(frozen=True, kw_only=True)
class CalibrationCache:
    """A calibration cache.

    Attributes:
        version: TensorRT's version as one number, 8601 for 8.6.1.
        algorithm: The calibrator class that TensorRT takes it from.
        amax: Range by name of the ONNX tensor.
    """

    version: int
    algorithm: str
    amax: Mapping[str, float]


def activation_ranges(
    model: onnx.ModelProto, scales: ScaleCache, plan: PrecisionPlan | None
) -> dict[str, float]:
    """Returns the range of every ONNX tensor that a planned operation of a float graph reads.

    Where several read one tensor with unequal ranges the largest holds.

    Raises:
        ArtifactError: A planned operation is not in the graph, or has no range.
    """
    nodes = operation_nodes(ir.from_proto(model).graph)
    planned = scales.operations() if plan is None else plan.quantized
    require_operations(nodes, planned)
    tensors = graph_inputs(nodes)
    ranges: dict[str, float] = {}
    for operation in planned:
        name = f"{operation}.input"
        if name not in scales.scales:
            raise ArtifactError(
                f"the scale cache has no range for '{name}'", hint="calibrate again"
            )
        for tensor in tensors[operation]:
            ranges[tensor] = max(ranges.get(tensor, 0.0), max(scales.scales[name].amax))
    return ranges


def calibration_cache_text(cache: CalibrationCache) -> str:
    """Returns the text of a calibration cache.

    Raises:
        ArtifactError: A range is not a positive float32 number.
    """
    lines = [f"TRT-{cache.version}-{cache.algorithm}"]
    for name, amax in cache.amax.items():
        scale = amax / INT8.max_level
        if not (math.isfinite(scale) and scale > 0.0):
            raise ArtifactError(f"tensor '{name}' has a range of {amax}")
        lines.append(f"{name}: {struct.pack('!f', scale).hex()}")
    return "\n".join(lines) + "\n"


def write_calibration_cache(path: Path, cache: CalibrationCache) -> None:
    """Writes a calibration cache atomically."""
    write_atomic(path, calibration_cache_text(cache).encode())


def read_calibration_cache(path: Path) -> CalibrationCache:
    """Reads a calibration cache.

    Raises:
        ArtifactError: It cannot be read, or a line is not what it should be.
    """
    lines = read_text(path, ArtifactError).splitlines()
    header = _HEADER.fullmatch(lines[0].strip()) if lines else None
    if header is None:
        raise ArtifactError("does not begin with 'TRT-<version>-<algorithm>'", path=path)
    amax = dict(
        _range(path, number, line) for number, line in enumerate(lines[1:], 2) if line.strip()
    )
    return CalibrationCache(version=int(header[1]), algorithm=header[2], amax=amax)


def ranges_beside(graph_path: Path, cache_path: Path) -> str:
    """Returns the text of a calibration cache that was made for a float graph.

    Raises:
        ArtifactError: The graph has ranges itself, or lacks a tensor that the cache names: an
            engine would leave out such a range without a word.
    """
    text = read_text(cache_path, ArtifactError)
    ranges = read_calibration_cache(cache_path).amax
    graph = read_onnx(graph_path).model.graph
    if any(node.op_type == "QuantizeLinear" for node in graph.node):
        raise ArtifactError(
            "has Q/DQ nodes, beside which a calibration cache is not read",
            path=graph_path,
            hint="wire a float graph, as export.float.onnx, or leave out the cache",
        )
    tensors = {value.name for value in graph.input}
    tensors |= {name for node in graph.node for name in node.output}
    unknown = [name for name in ranges if name not in tensors]
    if unknown:
        raise ArtifactError(
            f"{len(unknown)} of its {len(ranges)} ranges, as of '{unknown[0]}', are of tensors "
            f"that {graph_path.name} lacks",
            path=cache_path,
            hint="wire graph and cache of the same network",
        )
    return text


def _range(path: Path, number: int, line: str) -> tuple[str, float]:
    # A tensor's name may hold colons itself.
    name, separator, digits = line.rpartition(":")
    if not separator or _SCALE.fullmatch(digits.strip()) is None:
        raise ArtifactError(f"line {number} is not '<tensor>: <hexadecimal scale>'", path=path)
    (scale,) = struct.unpack("!f", bytes.fromhex(digits.strip().zfill(8)))
    if not (math.isfinite(scale) and scale >= 0.0):
        raise ArtifactError(f"line {number} holds a scale of {scale}", path=path)
    return name, scale * INT8.max_level
