from __future__ import annotations

from functools import partial
from typing import Any

import onnx
import onnx_ir as ir
import pytest
import torch

from quantpipe.engines.benchmark import measure_latency
from quantpipe.engines.contract import BuildSettings
from quantpipe.engines.profile import operation_times
from quantpipe.engines.registry import ENGINES, build_engine, load_engine
from quantpipe.engines.tensorrt.calibration_cache import activation_ranges
from quantpipe.errors import ArtifactError
from quantpipe.export.onnx_graph import write_graph
from quantpipe.export.qdq import insert_qdq
from quantpipe.graph.operations import (
    operation_aliases,
    operation_nodes,
    operation_readers,
    require_operations,
    result_sizes,
)
from quantpipe.progress import Silent

PLACEMENT = {name: spec.placement for name, spec in ENGINES.items()}

POOL = "backbone.ERBlock_5.2.sppf.m"


def test_who_reads_a_result_through_activations_and_concats(exported: Any) -> None:
    readers = operation_readers(exported.graph)
    assert set(readers) == set(exported.scales.operations())
    assert readers["backbone.stem.conv"] == {"backbone.ERBlock_2.0.conv"}
    pool, after = "backbone.ERBlock_5.2.sppf.m", "backbone.ERBlock_5.2.sppf.cv2.block.conv"
    assert readers["backbone.ERBlock_5.2.sppf.cv1.block.conv"] == {pool, after}
    assert readers[pool] == {pool, after}
    assert readers["neck.upsample0.upsample_transpose"] == {"neck.Rep_p4.conv1.conv"}
    assert readers["detect.stems.0.block.conv"] == {
        "detect.cls_convs.0.block.conv",
        "detect.reg_convs.0.block.conv",
    }
    assert readers["detect.cls_preds.0"] == frozenset()


def test_sizes_are_those_of_the_results(exported: Any) -> None:
    expected: dict[str, int] = {}

    def add(name: str) -> Any:
        def hook(module: Any, inputs: Any, output: torch.Tensor) -> None:
            expected[name] = expected.get(name, 0) + output[0].numel()

        return hook

    names = exported.scales.operations()
    modules = dict(exported.network.named_modules())
    handles = [modules[name].register_forward_hook(add(name)) for name in names]
    with torch.no_grad():
        exported.network(exported.images[:1])
    for handle in handles:
        handle.remove()
    assert result_sizes(exported.graph) == expected


def test_names_of_nodes_and_of_what_they_compute(exported: Any) -> None:
    names = operation_aliases(exported.graph)
    assert set(names.values()) == set(exported.scales.operations())
    by_output = {
        node.output[0]: node.name for node in exported.graph.graph.node if node.op_type == "Conv"
    }
    assert all(names[output] == operation for output, operation in by_output.items())
    relu = next(node for node in exported.graph.graph.node if node.op_type == "Relu")
    assert names[relu.output[0]] == by_output[relu.input[0]] == "backbone.stem.conv"


def test_every_operation_is_found_in_the_engines_that_run_it(exported: Any, tmp_path: Any) -> None:
    """The layers sum to roughly the whole: timing them costs a microsecond or two each."""
    names = operation_aliases(exported.graph)
    images = exported.images.numpy()
    for engine_name in ("openvino", "onnxruntime"):
        for precision in ("fp32", "int8"):
            graph = exported.graph
            if precision == "int8":
                graph = insert_qdq(graph, exported.scales, None, PLACEMENT[engine_name])
            source, path = tmp_path / "model.onnx", tmp_path / f"{engine_name}.{precision}"
            write_graph(source, graph)
            told: dict[str, Any] = {"num_streams": 0, "num_threads": 1, "float_precision": "fp32"}
            library = ENGINES[engine_name].settings(
                name=engine_name, batch_sizes=(len(images),), mode="latency", **told
            )
            settings = BuildSettings(
                engine=library, precision=precision, image_size=images.shape[-2:]
            )
            build_engine(source, path, settings)
            engine = load_engine(engine_name, path)
            times = operation_times(engine.profile(images, 9), names)
            runs = {"whole": partial(engine.run, images)}
            whole = measure_latency(runs, num_warmup=1, num_runs=9, progress=Silent())["whole"]
            engine.close()
            assert set(times.milliseconds) == set(exported.scales.operations())
            total = sum(times.milliseconds.values()) + times.elsewhere
            assert times.elsewhere < 0.7 * total
            assert 0.4 * whole.fastest < total < 2.5 * whole.fastest


def _changed(exported: Any, op_type: str, number: int = 0) -> Any:
    """A copy of the graph, and one of its nodes."""
    model = onnx.ModelProto()
    model.CopyFrom(exported.graph)
    return model, [node for node in model.graph.node if node.op_type == op_type][number]


def _refused(exported: Any, model: Any, told: str) -> None:
    """By everything that plans operations of a graph."""
    with pytest.raises(ArtifactError, match=told):
        insert_qdq(model, exported.scales, None, PLACEMENT["openvino"])
    with pytest.raises(ArtifactError, match=told):
        activation_ranges(model, exported.scales, None)


@pytest.mark.parametrize("op_type", ["Conv", "ConvTranspose"])
def test_a_weight_that_two_convolutions_read_is_refused(exported: Any, op_type: str) -> None:
    model, node = _changed(exported, op_type)
    again = model.graph.node.add()
    again.CopyFrom(node)
    again.name, again.output[0] = "another", "nobody_reads_this"
    name = node.input[1].removesuffix(".weight")
    _refused(exported, model, rf"operation '{name}' appears twice in the ONNX graph")


def test_two_pools_of_one_name_are_refused_but_one_that_runs_again_is_not(exported: Any) -> None:
    assert len(operation_nodes(ir.from_proto(exported.graph).graph)[POOL]) == 3
    model, node = _changed(exported, "MaxPool", 2)
    node.name = POOL
    _refused(exported, model, rf"operation '{POOL}' appears twice in the ONNX graph")


@pytest.mark.parametrize("op_type", ["Conv", "ConvTranspose"])
def test_a_weight_under_another_name_leaves_its_operation_unfound(
    exported: Any, op_type: str
) -> None:
    model, node = _changed(exported, op_type)
    name = node.input[1].removesuffix(".weight")
    (weight,) = (t for t in model.graph.initializer if t.name == node.input[1])
    weight.name = node.input[1] = f"{name}x.weight"
    told = rf"operation '{name}' is not in the ONNX graph; did you mean '{name}x'"
    _refused(exported, model, told)


def test_a_weight_that_is_computed_leaves_its_operation_unfound(exported: Any) -> None:
    model, node = _changed(exported, "Conv")
    model.graph.node.add(op_type="Identity", input=[node.input[1]], output=["computed"])
    node.input[1] = "computed"
    _refused(exported, model, r"operation 'backbone\.stem\.conv' is not in the ONNX graph")


def test_a_pool_without_a_name_leaves_its_operation_unfound(exported: Any) -> None:
    model = _changed(exported, "MaxPool")[0]
    for number, node in enumerate(n for n in model.graph.node if n.op_type == "MaxPool"):
        node.name = f"node_MaxPool_{number}"
    _refused(exported, model, rf"operation '{POOL}' is not in the ONNX graph")


def test_every_planned_operation_has_to_be_there() -> None:
    require_operations({"a": 1, "b": 2}, ["b", "a"])
    require_operations([], [])
    with pytest.raises(ArtifactError, match="'c' is not in the ONNX graph; known: a, b"):
        require_operations({"a": 1, "b": 2}, ["a", "c"])
