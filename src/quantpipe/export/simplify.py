"""onnxsim, held to leaving the quantization as it was placed."""

from __future__ import annotations

from collections import Counter

import numpy as np
import onnx
import onnxsim

from quantpipe.errors import ArtifactError

_KINDS = ("QuantizeLinear", "DequantizeLinear")


def simplify(model: onnx.ModelProto) -> onnx.ModelProto:
    """Returns the model with constants folded and dead nodes gone.

    In a graph with Q/DQ nothing is folded, because a weight's pair is itself a constant.

    Raises:
        ArtifactError: onnxsim changed what the model computes, or a Q/DQ pair.
    """
    before = qdq_scales(model)
    result: onnx.ModelProto
    result, same = onnxsim.simplify(model, skip_constant_folding=bool(before))
    if not same:
        raise ArtifactError(
            "onnxsim changed what the graph computes", hint="export without simplify"
        )
    require_same_qdq(before, qdq_scales(result))
    return result


def qdq_scales(model: onnx.ModelProto) -> Counter[tuple[str, bytes]]:
    """Returns how often each (operator, scale values) occurs among the Q and DQ nodes."""
    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type == "Constant" and node.attribute[0].name == "value":
            constants[node.output[0]] = node.attribute[0].t
    return Counter(
        (node.op_type, _scale_bytes(constants, node))
        for node in model.graph.node
        if node.op_type in _KINDS
    )


def require_same_qdq(before: Counter[tuple[str, bytes]], after: Counter[tuple[str, bytes]]) -> None:
    """Refuses a graph whose Q/DQ nodes are not those that were placed.

    Raises:
        ArtifactError: With the numbers of both.
    """
    for kind in _KINDS:
        old = sum(count for (name, _), count in before.items() if name == kind)
        new = sum(count for (name, _), count in after.items() if name == kind)
        if old != new:
            raise ArtifactError(
                f"simplifying left {new} of {old} {kind} nodes", hint="export without simplify"
            )
    if before != after:
        raise ArtifactError(
            "simplifying changed a quantization scale", hint="export without simplify"
        )


def _scale_bytes(constants: dict[str, onnx.TensorProto], node: onnx.NodeProto) -> bytes:
    name = node.input[1]
    if name not in constants:
        raise ArtifactError(f"the scale of {node.op_type} '{node.name}' is not a constant")
    return np.ascontiguousarray(onnx.numpy_helper.to_array(constants[name])).tobytes()
