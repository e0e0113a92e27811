"""Tiny ONNX networks, float and with Q/DQ, and what the ONNX reference makes of them."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnx.reference

from quantpipe.engines.contract import BuildSettings
from quantpipe.engines.registry import ENGINES
from quantpipe.schema import build, field_types

IMAGE_SIZE = (32, 32)


def settings(
    name: str,
    *,
    precision: Any = "fp32",
    image_size: tuple[int, int] = IMAGE_SIZE,
    **changes: Any,
) -> BuildSettings[Any]:
    """Of an engine by name; of what is given here, its library takes what it reads."""
    kind = ENGINES[name].settings
    values: dict[str, Any] = {
        "float_precision": "fp32",
        "batch_sizes": [1, 4],
        "mode": "latency",
        "num_streams": 0,
        "num_threads": 1,
        "workspace_mib": 64,
        "optimization_level": 3,
    }
    known = {key: value for key, value in values.items() if key in field_types(kind)}
    engine = build(kind, {"name": name, **known, **changes}, "engine")
    return BuildSettings(engine=engine, precision=precision, image_size=image_size)


def _tensor(name: str, values: np.ndarray) -> onnx.TensorProto:
    return onnx.numpy_helper.from_array(values, name)


def _weights() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(2)
    return {
        "stem.weight": rng.normal(size=(16, 3, 3, 3)).astype(np.float32) * np.float32(0.3),
        "head.weight": rng.normal(size=(6, 16, 3, 3)).astype(np.float32) * np.float32(0.2),
        "stem.bias": rng.normal(size=16).astype(np.float32),
        "head.bias": rng.normal(size=6).astype(np.float32),
    }


def tiny_model(
    *,
    quantized: bool = False,
    batch: int | str = "batch",
    opset: int = 19,
    image_size: tuple[int, int] = IMAGE_SIZE,
) -> onnx.ModelProto:
    """stem 3x3/2 - ReLU - head 3x3 - (B, H W / 4, 6); quantized in the OpenVINO placement."""
    weights = _weights()
    initializers = [_tensor(name, values) for name, values in weights.items()]
    initializers.append(_tensor("shape", np.array([0, 6, -1])))
    nodes = []

    def pair(name: str, amax: float) -> str:
        if not quantized:
            return name
        initializers.append(_tensor(f"{name}.scale", np.array(amax / 127, dtype=np.float32)))
        initializers.append(_tensor(f"{name}.zero", np.array(0, dtype=np.int8)))
        parameters = [f"{name}.scale", f"{name}.zero"]
        for kind, source, target in (
            ("QuantizeLinear", name, f"{name}.q"),
            ("DequantizeLinear", f"{name}.q", f"{name}.dq"),
        ):
            nodes.append(onnx.helper.make_node(kind, [source, *parameters], [target], name=target))
        return f"{name}.dq"

    def convolution(name: str, source: str, target: str, amax: float, **attributes: Any) -> None:
        inputs = [
            pair(source, amax),
            pair(f"{name}.weight", float(abs(weights[f"{name}.weight"]).max())),
        ]
        nodes.append(
            onnx.helper.make_node(
                "Conv", [*inputs, f"{name}.bias"], [target], name=name, pads=[1] * 4, **attributes
            )
        )

    convolution("stem", "images", "a", 1.0, strides=[2, 2])
    nodes.append(onnx.helper.make_node("Relu", ["a"], ["b"], name="relu"))
    convolution("head", "b", "c", 8.0)
    nodes.append(onnx.helper.make_node("Reshape", ["c", "shape"], ["d"], name="flatten"))
    nodes.append(
        onnx.helper.make_node("Transpose", ["d"], ["predictions"], name="rows", perm=[0, 2, 1])
    )
    graph = onnx.helper.make_graph(
        nodes,
        "tiny",
        [onnx.helper.make_tensor_value_info("images", 1, [batch, 3, *image_size])],
        [
            onnx.helper.make_tensor_value_info(
                "predictions", 1, [batch, image_size[0] * image_size[1] // 4, 6]
            )
        ],
        initializers,
    )
    model = onnx.helper.make_model(
        graph, opset_imports=[onnx.helper.make_opsetid("", opset)], ir_version=9
    )
    onnx.checker.check_model(model, full_check=True)
    return model


def reference(model: onnx.ModelProto, images: np.ndarray) -> np.ndarray:
    outputs: Any = onnx.reference.ReferenceEvaluator(model).run(None, {"images": images})
    predictions: np.ndarray = outputs[0]
    return predictions


def some_images(count: int, image_size: tuple[int, int] = IMAGE_SIZE) -> np.ndarray:
    shape = (count, 3, *image_size)
    return np.random.default_rng(9).random(shape, dtype=np.float32)
