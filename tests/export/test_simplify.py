from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from quantpipe.engines.registry import ENGINES
from quantpipe.errors import ArtifactError
from quantpipe.export.half import to_half
from quantpipe.export.onnx_graph import write_graph
from quantpipe.export.qdq import insert_qdq
from quantpipe.export.simplify import qdq_scales, require_same_qdq, simplify
from quantpipe.export.verify import unoptimized

PLACEMENT = {name: spec.placement for name, spec in ENGINES.items()}


@pytest.mark.parametrize("half", [False, True])
@pytest.mark.parametrize("target", [None, *PLACEMENT])
def test_pairs_survive_and_predictions_stay(
    exported: Any, tmp_path: Path, target: str, half: bool
) -> None:
    graph = exported.graph
    if target is not None:
        graph = insert_qdq(graph, exported.scales, None, PLACEMENT[target])
    if half:
        graph = to_half(graph)
    simple = simplify(graph)
    assert qdq_scales(simple) == qdq_scales(graph)
    write_graph(tmp_path / "a.onnx", graph)
    write_graph(tmp_path / "b.onnx", simple)
    images = exported.images.numpy()
    np.testing.assert_allclose(
        unoptimized(tmp_path / "a.onnx")(images),
        unoptimized(tmp_path / "b.onnx")(images),
        atol=1e-3,
    )


def test_operation_names_survive(exported: Any) -> None:
    def named(graph: Any) -> Any:
        return {node.name for node in graph.graph.node if node.op_type in ("Conv", "MaxPool")}

    assert named(simplify(exported.graph)) == named(exported.graph)


def test_a_folded_weight_is_noticed(exported: Any) -> None:
    before = insert_qdq(exported.graph, exported.scales, None, PLACEMENT["tensorrt"])
    folded = insert_qdq(exported.graph, exported.scales, None, PLACEMENT["openvino"])
    with pytest.raises(ArtifactError, match="QuantizeLinear"):
        require_same_qdq(qdq_scales(before), qdq_scales(folded))


def test_a_changed_scale_is_noticed(exported: Any) -> None:
    before = insert_qdq(exported.graph, exported.scales, None, PLACEMENT["openvino"])
    after = onnx.ModelProto()
    after.CopyFrom(before)
    for tensor in after.graph.initializer:
        if tensor.name == "images.scale":
            tensor.CopyFrom(onnx.numpy_helper.from_array(np.array(0.5, np.float32), tensor.name))
    with pytest.raises(ArtifactError, match="scale"):
        require_same_qdq(qdq_scales(before), qdq_scales(after))
