from __future__ import annotations

from typing import Any

import onnx
import pytest

from quantpipe.engines.contract import EngineLayer
from quantpipe.engines.fallback import UNKNOWN, UNPLANNED, fallbacks


def layer(name: str, *, precision: str = "fp32", quantizable: bool = True) -> EngineLayer:
    return EngineLayer(name=name, kind="Conv", precision=precision, quantizable=quantizable)


def reason(engine: str, model: onnx.ModelProto, name: str) -> str:
    (found,) = fallbacks(engine, [layer(name)], model)
    assert found.layer == name
    return found.reason


def without_pair(model: onnx.ModelProto, name: str) -> onnx.ModelProto:
    """The model with the named convolution's input taken from in front of its pair."""
    makers = {node.output[0]: node for node in model.graph.node}
    node = next(node for node in model.graph.node if node.name == name)
    node.input[0] = makers[makers[node.input[0]].input[0]].input[0]
    return model


def test_only_float_layers_that_could_be_int8_are_told(tiny: Any) -> None:
    layers = [
        layer("stem", precision="int8"),
        layer("rows", quantizable=False),
        layer("head,relu"),
    ]
    found = fallbacks("openvino", layers, tiny.model(quantized=True))
    assert [fallback.layer for fallback in found] == ["head,relu"]


def test_the_plan_and_the_library_are_told_apart(tiny: Any) -> None:
    model = tiny.model(quantized=True)
    assert reason("openvino", model, "stem, relu") == (
        "its Q/DQ pairs are in the graph; openvino chose a fp32 kernel"
    )
    assert reason("openvino", without_pair(model, "stem"), "stem") == UNPLANNED
    assert reason("openvino", model, "reorder_17") == UNKNOWN
    assert "calibration cache" in reason("tensorrt", tiny.model(), "stem")


@pytest.mark.parametrize(("name", "needs"), [("head", True), ("stem", False)])
def test_onnxruntime_needs_quantized_results(tiny: Any, name: str, needs: bool) -> None:
    """The head's result is not quantized; the stem's is, behind its ReLU."""
    found = reason("onnxruntime", tiny.model(quantized=True), name)
    assert found.startswith("nothing quantizes its result") == needs


def test_onnxruntime_has_no_integer_transposed_convolution(tiny: Any) -> None:
    model = tiny.model(quantized=True)
    next(node for node in model.graph.node if node.name == "head").op_type = "ConvTranspose"
    assert reason("onnxruntime", model, "head") == "ONNX Runtime has no integer ConvTranspose"
    assert "openvino chose" in reason("openvino", model, "head")
