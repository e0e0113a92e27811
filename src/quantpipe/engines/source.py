"""The graph that a library is given: with half precision in its types where it reads it there."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from quantpipe.engines.contract import BuildSettings
from quantpipe.engines.registry import engine_spec
from quantpipe.export.half import to_half
from quantpipe.export.onnx_graph import write_graph
from quantpipe.graph.onnx_file import read_onnx


def typed_source(
    settings: BuildSettings[Any], source: Path, half_path: Path, *, calibration_cache: bool = False
) -> Path:
    """Returns what to build from: ``source``, or its FP16 form, written to ``half_path``.

    Args:
        settings: Of the engine.
        source: A float graph, or one with Q/DQ.
        half_path: Where the other form goes, if there has to be one.
        calibration_cache: Whether ranges come from one.

    Raises:
        ArtifactError: The graph's opset has no FP16 scales.
        MachineError: The library does not tell its version.
    """
    spec = engine_spec(settings.engine.name)
    if settings.float_precision != "half" or not spec.half_in_graph(calibration_cache):
        return source
    write_graph(half_path, to_half(read_onnx(source).model))
    return half_path
