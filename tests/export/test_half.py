from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from quantpipe.engines.registry import ENGINES
from quantpipe.errors import ArtifactError, NumericalError
from quantpipe.export.half import to_half
from quantpipe.export.onnx_graph import write_graph
from quantpipe.export.qdq import insert_qdq
from quantpipe.export.verify import compare, unoptimized

PLACEMENT = {name: spec.placement for name, spec in ENGINES.items()}


def _types(model: Any) -> Any:
    inferred = onnx.shape_inference.infer_shapes(model, strict_mode=True)
    values = [*inferred.graph.value_info, *inferred.graph.input, *inferred.graph.output]
    types = {value.name: value.type.tensor_type.elem_type for value in values}
    return types | {tensor.name: tensor.data_type for tensor in inferred.graph.initializer}


@pytest.mark.parametrize("target", [None, "tensorrt", "openvino"])
def test_convolutions_compute_in_float16_and_boxes_in_float32(
    exported: Any, tmp_path: Path, target: str
) -> None:
    graph = exported.graph
    if target is not None:
        graph = insert_qdq(graph, exported.scales, None, PLACEMENT[target])
    half = to_half(graph)
    write_graph(tmp_path / "half.onnx", half)
    types = _types(half)
    for node in half.graph.node:
        if node.op_type in ("Conv", "ConvTranspose"):
            assert {types[name] for name in node.input} == {onnx.TensorProto.FLOAT16}
        if node.op_type == "DequantizeLinear":
            assert types[node.output[0]] == onnx.TensorProto.FLOAT16
    assert types["images"] == types["predictions"] == onnx.TensorProto.FLOAT
    last = next(node for node in half.graph.node if "predictions" in node.output)
    assert types[last.input[0]] == onnx.TensorProto.FLOAT


def test_it_predicts_nearly_the_same(exported: Any, tmp_path: Path) -> None:
    write_graph(tmp_path / "half.onnx", to_half(exported.graph))
    images = exported.images.numpy()
    parity = compare(
        unoptimized(exported.path)(images), unoptimized(tmp_path / "half.onnx")(images)
    )
    assert 0.0 < parity.box_mean_abs < 0.05
    assert 0.0 < parity.score_mean_abs < 2e-3


def test_the_file_is_about_half_as_large(exported: Any, tmp_path: Path) -> None:
    write_graph(tmp_path / "half.onnx", to_half(exported.graph))
    sizes = [path.stat().st_size for path in (tmp_path / "half.onnx", exported.path)]
    assert 0.45 < sizes[0] / sizes[1] < 0.6


def test_scales_never_shrink_and_never_vanish(exported: Any) -> None:
    graph = insert_qdq(exported.graph, exported.scales, None, PLACEMENT["openvino"])
    before = {t.name: onnx.numpy_helper.to_array(t) for t in graph.graph.initializer}
    tiny = "detect.stems.0.block.conv.weight.scale"
    for tensor in graph.graph.initializer:
        if tensor.name == tiny:
            tensor.CopyFrom(onnx.numpy_helper.from_array(before[tiny] * np.float32(1e-7), tiny))
    before[tiny] = before[tiny] * np.float32(1e-7)
    after = {t.name: onnx.numpy_helper.to_array(t) for t in to_half(graph).graph.initializer}
    names = [name for name in after if name.endswith(".scale.half")]
    assert len(names) > 100
    for name in names:
        old, new = before[name.removesuffix(".half")], after[name].astype(np.float32)
        assert (new >= old).all()
        assert (new > 0).all()
        # One step of float16: 2^-10 relative, or 2^-24 where numbers are subnormal.
        assert (new - old <= np.maximum(old * 2.0**-10, 2.0**-24)).all()


def test_an_old_opset_is_refused(exported: Any) -> None:
    old = onnx.ModelProto()
    old.CopyFrom(exported.graph)
    old.opset_import[0].version = 18
    with pytest.raises(ArtifactError, match="18"):
        to_half(old)


def test_a_weight_that_does_not_fit_is_named(exported: Any) -> None:
    graph = onnx.ModelProto()
    graph.CopyFrom(exported.graph)
    tensor = next(t for t in graph.graph.initializer if t.name == "backbone.stem.conv.weight")
    values = onnx.numpy_helper.to_array(tensor).copy()
    values[0, 0, 0, 0] = 1e5
    tensor.CopyFrom(onnx.numpy_helper.from_array(values, tensor.name))
    with pytest.raises(NumericalError, match=r"backbone\.stem\.conv\.weight"):
        to_half(graph)
