"""Inserting Q/DQ pairs into a float ONNX graph from a scale cache.

The graph is edited, not traced from fake-quantized modules: the scales are those of the cache, and
the placement is the engine's (:class:`quantpipe.quantization.placement.Placement`).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import onnx
import onnx_ir as ir
from numpy.typing import NDArray

from quantpipe.errors import ArtifactError
from quantpipe.graph.operations import CONVOLUTIONS, operation_nodes, require_operations
from quantpipe.quantization.number_format import NumberFormat
from quantpipe.quantization.placement import Placement
from quantpipe.quantization.precision_plan import PrecisionPlan
from quantpipe.quantization.scale_cache import ScaleCache, TensorScale

_NON_NEGATIVE = frozenset({"Relu", "Sigmoid"})
_KEEPS_SIGN = frozenset({"MaxPool", "Concat", "Reshape", "Transpose"})


def insert_qdq(
    model: onnx.ModelProto,
    scales: ScaleCache,
    plan: PrecisionPlan | None,
    placement: Placement,
    *,
    signed_input: bool = False,
) -> onnx.ModelProto:
    """Returns a copy of a float graph in which the planned operations are quantized.

    Symmetric. A weight is cut to its range first, so that its codes stay within -127..127 in INT8,
    as in fake quantization. Where the engine stores activations in uint8, a tensor that cannot be
    negative takes it over the same range, 0..amax: twice as fine as what fake quantization
    simulates, never coarser. Biases of quantized operations are corrected as the cache says.

    Args:
        model: What :func:`quantpipe.export.onnx_graph.export_float` wrote.
        scales: Ranges named ``<operation>.input`` and ``<operation>.weight``.
        plan: Which operations are quantized; None means every one that has an input range.
        placement: Where pairs go, and in what form.
        signed_input: Whether the numbers of images may be negative.

    Raises:
        ArtifactError: A planned operation is not in the graph, or has no range of the right shape.
    """
    edited = ir.from_proto(model)
    nodes = operation_nodes(edited.graph)
    planned = _planned(scales, plan)
    require_operations(nodes, planned)
    tensors = _QuantizedTensors(edited.graph, placement, signed_input)
    for name in planned:
        read = _activation_range(scales, name, placement)
        for node in nodes[name]:
            node.replace_input_with(0, tensors.quantized(_input(node, 0), read))
            if node.op_type in CONVOLUTIONS:
                weight = _scale(scales, f"{name}.weight", placement)
                _quantize_weight(edited.graph, node, weight, placement)
        _correct_bias(edited.graph, nodes[name][0], name, scales)
    if placement.quantized_concat_inputs:
        _quantize_concat_inputs(edited.graph, tensors)
    edited.graph.sort()
    return ir.to_proto(edited)


def _planned(scales: ScaleCache, plan: PrecisionPlan | None) -> list[str]:
    if plan is not None:
        return list(plan.quantized)
    return list(scales.operations())


def _scale(scales: ScaleCache, name: str, placement: Placement) -> TensorScale:
    if name not in scales.scales:
        raise ArtifactError(f"the scale cache has no range for '{name}'", hint="calibrate again")
    scale = scales.scales[name]
    if scale.number_format not in placement.activations:
        taken = ", ".join(number_format.name for number_format in placement.activations)
        raise ArtifactError(f"'{name}' is {scale.number_format.name}, the engine takes {taken}")
    return scale


def _activation_range(scales: ScaleCache, operation: str, placement: Placement) -> _Range:
    scale = _scale(scales, f"{operation}.input", placement)
    if scale.axis is not None or len(scale.amax) != 1:
        raise ArtifactError(f"the range of '{scale.name}' is per channel, engines take one value")
    return _Range(scale.amax[0], scale.number_format)


class _Range(NamedTuple):
    """Of a tensor."""

    amax: float
    number_format: NumberFormat


@dataclass
class _QuantizedTensors:
    """The pairs inserted so far: one for each tensor and range."""

    graph: ir.Graph
    placement: Placement
    signed_input: bool
    range_of: dict[ir.Value, _Range] = field(default_factory=dict)
    _pairs: dict[tuple[ir.Value, _Range], ir.Value] = field(default_factory=dict)

    def quantized(self, value: ir.Value, wanted: _Range) -> ir.Value:
        """Returns ``value`` after a pair over a range, made at the first request."""
        key = (value, wanted)
        if key not in self._pairs:
            same_tensor = sum(1 for tensor, _ in self._pairs if tensor is value)
            self._pairs[key] = self._pair(
                value, wanted, f".range{same_tensor}" if same_tensor else ""
            )
            self.range_of.setdefault(value, wanted)
        return self._pairs[key]

    def _pair(self, value: ir.Value, wanted: _Range, suffix: str) -> ir.Value:
        base = f"{value.name}{suffix}"
        codes = self._codes(value, wanted.number_format)
        scale = np.float32(wanted.amax) / np.float32(codes.max_level)
        zero_point = np.asarray(codes.zero_point, dtype=_dtype(codes))
        names = (f"{base}.scale", f"{base}.zero_point")
        parameters = [
            _initializer(self.graph, names[0], np.asarray(scale, dtype=np.float32)),
            _initializer(self.graph, names[1], zero_point),
        ]
        quantize = _node("QuantizeLinear", [value, *parameters], base)
        _describe(quantize, ir.DataType[codes.onnx_type], value.shape)
        dequantize = _node("DequantizeLinear", [quantize.outputs[0], *parameters], base)
        _describe(dequantize, ir.DataType.FLOAT, value.shape)
        self.graph.extend([quantize, dequantize])
        return dequantize.outputs[0]

    def _codes(self, value: ir.Value, number_format: NumberFormat) -> NumberFormat:
        needs_sign = not _cannot_be_negative(value, self.signed_input)
        formats = self.placement.activations[number_format]
        return next(codes for codes in formats if codes.signed or not needs_sign)


def _cannot_be_negative(value: ir.Value, signed_input: bool) -> bool:
    producer = value.producer()
    if producer is None:
        return value.is_graph_input() and not signed_input
    if producer.op_type in _KEEPS_SIGN:
        sources = producer.inputs if producer.op_type == "Concat" else producer.inputs[:1]
        return all(
            source is not None and _cannot_be_negative(source, signed_input) for source in sources
        )
    if producer.op_type in ("QuantizeLinear", "DequantizeLinear"):
        source = producer.inputs[0]
        return source is not None and _cannot_be_negative(source, signed_input)
    return producer.op_type in _NON_NEGATIVE


def _quantize_weight(
    graph: ir.Graph, node: ir.Node, scale: TensorScale, placement: Placement
) -> None:
    weight = _input(node, 1)
    assert weight.const_value is not None
    values = np.asarray(weight.const_value.numpy(), dtype=np.float32)
    steps, axis = _weight_steps(node, values, scale)
    shape = [-1 if dim == 0 else 1 for dim in range(values.ndim)] if axis == 0 else []
    limits = (steps * np.float32(scale.number_format.max_level)).reshape(shape)
    clipped = np.clip(values, -limits, limits)
    dtype = _dtype(scale.number_format)
    attributes = {} if axis is None else {"axis": ir.AttrInt64("axis", axis)}
    parameters = [
        _initializer(graph, f"{weight.name}.scale", steps),
        _initializer(graph, f"{weight.name}.zero_point", np.zeros(steps.shape, dtype=dtype)),
    ]
    if placement.folded_weights:
        codes = clipped / steps.reshape(shape)
        codes = codes if scale.number_format.kind == "float" else np.rint(codes)
        name = f"{weight.name}.{scale.number_format.name}"
        quantized = _initializer(graph, name, codes.astype(dtype))
    else:
        weight.const_value = ir.tensor(clipped, name=weight.name)
        quantize = _node("QuantizeLinear", [weight, *parameters], str(weight.name), attributes)
        _describe(quantize, ir.DataType[scale.number_format.onnx_type], weight.shape)
        graph.append(quantize)
        quantized = quantize.outputs[0]
    dequantize = _node("DequantizeLinear", [quantized, *parameters], str(weight.name), attributes)
    _describe(dequantize, ir.DataType.FLOAT, weight.shape)
    graph.append(dequantize)
    node.replace_input_with(1, dequantize.outputs[0])
    if placement.folded_weights and not weight.uses():
        del graph.initializers[str(weight.name)]


def _correct_bias(graph: ir.Graph, node: ir.Node, name: str, scales: ScaleCache) -> None:
    if name not in scales.bias_corrections:
        return
    correction = np.asarray(scales.bias_corrections[name], dtype=np.float32)
    if node.op_type not in CONVOLUTIONS or correction.size != _num_channels(node):
        raise ArtifactError(
            f"'{name}' does not take {correction.size} bias corrections", hint="calibrate again"
        )
    bias = node.inputs[2] if len(node.inputs) > 2 else None
    if bias is None:  # exporters drop a bias of zeros
        node.resize_inputs(3)
        node.replace_input_with(2, _initializer(graph, f"{name}.bias", correction))
        return
    assert bias.const_value is not None
    corrected = np.asarray(bias.const_value.numpy(), dtype=np.float32) + correction
    bias.const_value = ir.tensor(corrected, name=bias.name)


def _num_channels(node: ir.Node) -> int:
    shape = _input(node, 1).shape
    assert shape is not None
    return shape.numpy()[1 if node.op_type == "ConvTranspose" else 0]


def _weight_steps(
    node: ir.Node, values: NDArray[np.float32], scale: TensorScale
) -> tuple[NDArray[np.float32], int | None]:
    """Returns the scales, 0-d or (channels,), and their axis.

    A transposed convolution has one: on axis 0 OpenVINO, and on axis 1 TensorRT, gives up INT8.
    """
    amax = np.asarray(scale.amax, dtype=np.float32)
    limit = np.float32(scale.number_format.max_level)
    if scale.axis is None and amax.size == 1:
        return amax.reshape(()) / limit, None
    if node.op_type == "ConvTranspose" or scale.axis != 0 or amax.size != values.shape[0]:
        raise ArtifactError(
            f"'{scale.name}' has {amax.size} ranges on axis {scale.axis}, which {node.op_type} "
            f"with weights {list(values.shape)} cannot take",
            hint="calibrate again",
        )
    return amax / limit, 0


def _quantize_concat_inputs(graph: ir.Graph, tensors: _QuantizedTensors) -> None:
    """Puts a concat's range on its inputs; on equal ranges that changes no value."""
    for node in [node for node in graph if node.op_type == "Concat"]:
        joined = tensors.range_of.get(node.outputs[0])
        if joined is None:
            continue
        for index in range(len(node.inputs)):
            node.replace_input_with(index, tensors.quantized(_input(node, index), joined))


def _dtype(number_format: NumberFormat) -> np.dtype[np.generic]:
    return ir.DataType[number_format.onnx_type].numpy()


def _node(
    kind: str, inputs: list[ir.Value], base: str, attributes: dict[str, ir.Attr] | None = None
) -> ir.Node:
    node = ir.Node("", kind, inputs, attributes or {}, name=f"{base}.{kind}")
    node.outputs[0].name = f"{base}.{'quantized' if kind == 'QuantizeLinear' else 'dequantized'}"
    return node


def _describe(node: ir.Node, dtype: ir.DataType, shape: ir.Shape | None) -> None:
    node.outputs[0].dtype = dtype
    node.outputs[0].shape = shape


def _initializer(graph: ir.Graph, name: str, values: NDArray[np.generic]) -> ir.Value:
    value = ir.Value(name=name, const_value=ir.tensor(values, name=name))
    value.dtype = ir.DataType.from_numpy(values.dtype)
    value.shape = ir.Shape(values.shape)
    graph.register_initializer(value)
    return value


def _input(node: ir.Node, index: int) -> ir.Value:
    value = node.inputs[index]
    assert value is not None
    return value
