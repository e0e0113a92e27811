"""The ONNX graph of a network: float, FP16, or with the Q/DQ pairs of its scale cache."""

from __future__ import annotations

from quantpipe.core.stage import Output, PerVariant, Stage, imported, takes
from quantpipe.quantization.number_format import is_quantized
from quantpipe.stages.artifacts import GRAPH, MODEL
from quantpipe.stages.export.config import ExportConfig, check, content

STAGE = Stage(
    name="export",
    version=3,
    config_type=ExportConfig,
    inputs={"model": takes(MODEL)},
    outputs={"graph": Output(kind=GRAPH)},
    run=imported("quantpipe.stages.export.run"),
    check=check,
    content=content,
    per_variant=PerVariant(
        input="model",
        output="graph",
        settings=lambda row: {"quantized": is_quantized(row["precision"])},
    ),
)
