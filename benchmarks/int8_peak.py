"""How many multiply-adds a network needs, and how many a second this machine can do in INT8."""

from __future__ import annotations

import itertools
import math
import time

import numpy as np
import onnx
import openvino as ov
from onnx import TensorProto, helper, numpy_helper

SHAPES = tuple(itertools.product((256, 512), (20, 40), (1, 3)))
NUM_RUNS = 30


def multiply_adds(model: onnx.ModelProto, image_size: int) -> int:
    """Returns the multiply-adds of all convolutions for one image.

    Args:
        model: A float graph with one image input (B, 3, S, S).
        image_size: S.
    """
    fixed = onnx.ModelProto()
    fixed.CopyFrom(model)
    dims = fixed.graph.input[0].type.tensor_type.shape.dim
    for dim, size in zip(dims, (1, 3, image_size, image_size), strict=True):
        dim.dim_value = size
    del fixed.graph.value_info[:]
    fixed = onnx.shape_inference.infer_shapes(fixed, data_prop=True)
    shapes = {value.name: _shape(value) for value in (*fixed.graph.value_info, *fixed.graph.input)}
    weights = {tensor.name: tuple(tensor.dims) for tensor in fixed.graph.initializer}
    total = 0
    for node in fixed.graph.node:
        if node.op_type == "Conv":  # each output element sees one filter
            total += math.prod(shapes[node.output[0]]) * math.prod(weights[node.input[1]][1:])
        elif node.op_type == "ConvTranspose":  # each input element is spread by one filter
            total += math.prod(shapes[node.input[0]]) * math.prod(weights[node.input[1]][1:])
    return total


def _shape(value: onnx.ValueInfoProto) -> tuple[int, ...]:
    return tuple(dim.dim_value for dim in value.type.tensor_type.shape.dim)


def fastest_convolution() -> float:
    """Returns the most INT8 multiply-adds per second of several large convolutions in OpenVINO."""
    return max(_rate(channels, side, kernel) for channels, side, kernel in SHAPES)


def _rate(channels: int, side: int, kernel: int) -> float:
    model = ov.Core().read_model(_convolutions(channels, side, kernel).SerializeToString())
    hints = {"INFERENCE_PRECISION_HINT": "f32", "PERFORMANCE_HINT": "LATENCY"}
    request = ov.Core().compile_model(model, "CPU", hints).create_infer_request()
    images = np.random.default_rng(0).random((1, channels, side, side), dtype=np.float32)
    times = []
    for _ in range(NUM_RUNS):
        start = time.perf_counter()
        request.infer([images], share_inputs=True)
        times.append(time.perf_counter() - start)
    return _DEPTH * channels * channels * kernel * kernel * side * side / min(times)


_DEPTH = 8  # one after another, so that the conversion of the first input counts for little


def _convolutions(channels: int, side: int, kernel: int) -> onnx.ModelProto:
    rng = np.random.default_rng(0)
    parameters = [
        numpy_helper.from_array(np.array(0.02, dtype=np.float32), "scale"),
        numpy_helper.from_array(np.array(0, dtype=np.uint8), "unsigned"),
        numpy_helper.from_array(np.array(0, dtype=np.int8), "signed"),
    ]
    nodes, name = [], "images"
    for layer in range(_DEPTH):
        codes = rng.integers(-127, 128, (channels, channels, kernel, kernel), dtype=np.int8)
        parameters.append(numpy_helper.from_array(codes, f"w{layer}"))
        nodes += [
            helper.make_node("QuantizeLinear", [name, "scale", "unsigned"], [f"q{layer}"]),
            helper.make_node("DequantizeLinear", [f"q{layer}", "scale", "unsigned"], [f"x{layer}"]),
            helper.make_node("DequantizeLinear", [f"w{layer}", "scale", "signed"], [f"d{layer}"]),
            helper.make_node(
                "Conv", [f"x{layer}", f"d{layer}"], [f"c{layer}"], pads=[kernel // 2] * 4
            ),
            helper.make_node("Relu", [f"c{layer}"], [f"r{layer}"]),
        ]
        name = f"r{layer}"
    shape = [1, channels, side, side]
    graph = helper.make_graph(
        nodes,
        "convolutions",
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)],
        parameters,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 19)], ir_version=9)
