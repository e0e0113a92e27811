"""From a traced float graph to the one that an engine is built from."""

from __future__ import annotations

import onnx

from quantpipe.export.half import to_half
from quantpipe.export.qdq import insert_qdq
from quantpipe.export.simplify import simplify
from quantpipe.quantization.placement import Placement
from quantpipe.quantization.precision_plan import PrecisionPlan
from quantpipe.quantization.scale_cache import ScaleCache


def engine_graph(
    graph: onnx.ModelProto,
    scales: ScaleCache | None,
    plan: PrecisionPlan | None,
    *,
    placement: Placement,
    signed_input: bool,
    half: bool,
    simplified: bool,
) -> onnx.ModelProto:
    """Returns a float graph with the Q/DQ pairs of its ranges, in FP16 where asked for.

    Args:
        graph: Traced, float.
        scales: Its ranges; None for a float engine.
        plan: Which operations are quantized; None means every one that has a range.
        placement: Where the pairs go.
        signed_input: Whether the numbers of images may be negative.
        half: Whether types are FP16.
        simplified: Whether onnxsim simplifies it in the end.

    Raises:
        ArtifactError: Ranges, plan and graph are not of one network.
    """
    if scales is not None:
        graph = insert_qdq(graph, scales, plan, placement, signed_input=signed_input)
    if half:
        graph = to_half(graph)
    return simplify(graph) if simplified else graph
