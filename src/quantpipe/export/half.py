"""FP16 as types in the graph, which is how strongly typed engines (TensorRT 11) take it."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
from numpy.typing import NDArray

from quantpipe.errors import ArtifactError, NumericalError

_OLDEST_OPSET = 19
_COMPUTING = ("Conv", "ConvTranspose")
_LARGEST = float(np.finfo(np.float16).max)
_SMALLEST = np.float16(2.0**-24)


def to_half(model: onnx.ModelProto) -> onnx.ModelProto:
    """Returns a copy of a float32 graph, with or without Q/DQ, that computes in float16.

    Input and output stay float32, and so does what follows the last convolution: box coordinates
    of some hundred pixels would lose half a pixel in float16. Quantization scales become
    float16, rounded up so that no range shrinks.

    Raises:
        ArtifactError: The opset is older than 19, where scales are float32 only.
        NumericalError: A weight does not fit float16.
    """
    edited = ir.from_proto(onnx.shape_inference.infer_shapes(model))
    opset = edited.graph.opset_imports.get("", 0)
    if opset < _OLDEST_OPSET:
        raise ArtifactError(
            f"opset {opset} has no float16 scales",
            hint=f"export with opset {_OLDEST_OPSET} or newer",
        )
    half = _computing_nodes(edited.graph)
    scales = {id(value) for node in half for value in _scale_inputs(node)}
    halved: dict[ir.Value, ir.Value] = {}
    for node in half:
        for index, value in enumerate(node.inputs):
            if value is not None and value.dtype == ir.DataType.FLOAT:
                source = _half_input(edited.graph, value, half, halved, up=id(value) in scales)
                node.replace_input_with(index, source)
    _cast_back(edited.graph, half)
    _drop_unused(edited.graph)
    edited.graph.sort()
    return ir.to_proto(edited)


def _computing_nodes(graph: ir.Graph) -> dict[ir.Node, None]:
    """Returns the convolutions and everything one of them depends on, in execution order."""
    needed: set[ir.Node] = set()
    waiting = [node for node in graph if node.op_type in _COMPUTING]
    while waiting:
        node = waiting.pop()
        if node not in needed:
            needed.add(node)
            waiting.extend(node.predecessors())
    return {node: None for node in graph if node in needed}


def _scale_inputs(node: ir.Node) -> list[ir.Value]:
    if node.op_type not in ("QuantizeLinear", "DequantizeLinear"):
        return []
    scale = node.inputs[1]
    assert scale is not None
    return [scale]


def _half_input(
    graph: ir.Graph,
    value: ir.Value,
    half: dict[ir.Node, None],
    halved: dict[ir.Value, ir.Value],
    *,
    up: bool,
) -> ir.Value:
    """Returns the float16 form of what a node reads: itself where a float16 node computes it."""
    if value.producer() in half:
        return value
    if value not in halved:
        constant = value.is_initializer()
        halved[value] = (
            _half_constant(graph, value, up=up)
            if constant
            else _cast(graph, value, ir.DataType.FLOAT16)
        )
    return halved[value]


def _half_constant(graph: ir.Graph, value: ir.Value, *, up: bool) -> ir.Value:
    """Adds the float16 twin of an initializer; the float32 one goes if nothing else needs it."""
    name = f"{value.name}.half"
    assert value.const_value is not None
    constant = np.asarray(value.const_value.numpy(), dtype=np.float32)
    rounded = _rounded(str(value.name), constant, up=up)
    result = ir.Value(name=name, const_value=ir.tensor(rounded, name=name))
    result.dtype = ir.DataType.FLOAT16
    result.shape = value.shape
    graph.register_initializer(result)
    return result


def _rounded(name: str, values: NDArray[np.float32], *, up: bool) -> NDArray[np.float16]:
    if values.size and float(np.abs(values).max()) > _LARGEST:
        raise NumericalError(
            f"'{name}' reaches {float(np.abs(values).max()):g}, float16 ends at {_LARGEST:g}"
        )
    halved = values.astype(np.float16)
    if not up:
        return halved
    low = halved.astype(np.float32) < values
    raised = np.where(low, np.nextafter(halved, np.float16(np.inf)), halved)
    return np.maximum(raised, _SMALLEST).astype(np.float16)


def _cast(graph: ir.Graph, value: ir.Value, dtype: ir.DataType) -> ir.Value:
    name = f"{value.name}.{dtype.name.lower()}"
    attributes = {"to": ir.AttrInt64("to", int(dtype))}
    node = ir.Node("", "Cast", [value], attributes, name=f"{name}.Cast")
    result = node.outputs[0]
    result.name, result.dtype, result.shape = name, dtype, value.shape
    graph.append(node)
    return result


def _cast_back(graph: ir.Graph, half: dict[ir.Node, None]) -> None:
    """Types what the float16 part computes, and hands it to the rest of the graph as float32."""
    for node in half:
        for value in node.outputs:
            if value.dtype != ir.DataType.FLOAT:
                continue
            value.dtype = ir.DataType.FLOAT16
            outside = [use for use in value.uses() if use.node not in half]
            if not outside:
                continue
            back = _cast(graph, value, ir.DataType.FLOAT)
            for use in outside:
                use.node.replace_input_with(use.idx, back)


def _drop_unused(graph: ir.Graph) -> None:
    for name in [name for name, value in graph.initializers.items() if not value.uses()]:
        del graph.initializers[name]
