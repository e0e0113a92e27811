from __future__ import annotations

import json
from typing import Any

import pytest

from quantpipe.engines.tensorrt.layers import engine_layers, layer_names

UNTOLD = {"Format/Datatype": "N/A due to dynamic shapes"}


def information(**entry: Any) -> str:
    filled = {"Name": "stem", "LayerType": "CaskConvolution", "Inputs": [UNTOLD], **entry}
    return json.dumps({"Layers": [filled], "Bindings": ["images", "predictions"]})


@pytest.mark.parametrize(
    ("entry", "precision"),
    [
        ({"Inputs": [{"Format/Datatype": "Row major Int8 format"}]}, "int8"),
        ({"Inputs": [{"Format/Datatype": "Row major linear BFloat16 format"}]}, "bf16"),
        ({"Inputs": [{"Format/Datatype": "Row major linear FP32"}]}, "fp32"),
        ({"Inputs": [{"Format": "Row major", "DataType": "Half"}]}, "fp16"),
        ({"Inputs": [{"Format": "Row major", "DataType": "FP8"}]}, "FP8"),
        ({"Weights": {"Type": "Int8", "Count": 9}}, "int8"),
        ({"Weights": {"Type": "Half", "Count": 9}, "TacticName": "i8i8"}, "fp16"),
        ({"TacticName": "sm80_xmma_fprop_implicit_gemm_interleaved_i8i8_i8i32_f32_nchw"}, "int8"),
        ({"TacticName": "sm80_xmma_fprop_implicit_gemm_bf16bf16_bf16f32_f32_nhwckrsc"}, "bf16"),
        ({"TacticName": "sm80_xmma_fprop_implicit_gemm_f16f16_f16f32_f32_nhwckrsc"}, "fp16"),
        ({"TacticName": "sm80_xmma_fprop_implicit_gemm_f32f32_f32f32_f32_nhwckrsc"}, "fp32"),
        ({}, "unknown"),
        ({"Inputs": []}, "unknown"),
    ],
)
def test_precision_is_what_is_read_then_the_weights_then_the_kernel(
    entry: Any, precision: str
) -> None:
    (layer,) = engine_layers(information(**entry))
    assert layer.precision == precision
    assert layer.quantizable


@pytest.mark.parametrize(
    ("given", "metadata", "name"),
    [
        ("stem + relu", None, "stem + relu"),
        ("stem + relu [profile 1]", "", "stem + relu"),
        ("stem + relu", "[ONNX Layer: stem]\x1f[ONNX Layer: relu]", "stem + relu"),
        ("__myl_ConvRelu_0", "[ONNX Layer: stem]\x1f[ONNX Layer: relu]", "stem + relu"),
        ("__myl_Sigm_0", "[ONNX Layer: sigmoid | outer (Function)]", "sigmoid"),
    ],
)
def test_made_up_names_give_way_to_the_nodes_they_stand_for(
    given: str, metadata: str | None, name: str
) -> None:
    text = information(Name=given, Metadata=metadata)
    assert engine_layers(text)[0].name == name
    assert layer_names(text) == {given: name}
