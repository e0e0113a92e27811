from __future__ import annotations

import copy
import dataclasses
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from tests.precision_plans import all_int8

from quantpipe.engines.registry import ENGINES
from quantpipe.errors import ArtifactError
from quantpipe.export.onnx_graph import export_float, read_graph, write_graph
from quantpipe.export.qdq import insert_qdq
from quantpipe.export.verify import compare, unoptimized
from quantpipe.quantization.number_format import INT8
from quantpipe.quantization.placement import Placement
from quantpipe.quantization.precision_plan import PrecisionPlan
from quantpipe.quantization.scale_cache import ScaleCache
from quantpipe.quantization.simulation.network import quantize
from quantpipe.quantization.weight_rounding.codes import codes_of, weight_with_codes

PLACEMENT = {name: spec.placement for name, spec in ENGINES.items()}
INT4 = dataclasses.replace(INT8, name="int4", bits=4, max_level=7, onnx_type="INT4")


@pytest.fixture
def signed_pairs() -> Placement:
    """Int8 activations, and pairs on the inputs of concats."""
    return dataclasses.replace(PLACEMENT["tensorrt"], quantized_concat_inputs=True)


def _nodes(model: Any, kind: str) -> Any:
    return [node for node in model.graph.node if node.op_type == kind]


def _constants(model: Any) -> Any:
    return {t.name: onnx.numpy_helper.to_array(t) for t in model.graph.initializer}


def _producers(model: Any) -> Any:
    return {name: node for node in model.graph.node for name in node.output}


def _predictions(model: Any, path: Path, images: Any) -> Any:
    write_graph(path, model)
    return unoptimized(path)(images.numpy())


def _fake_quantized(exported: Any, plan: Any = None, scales: Any = None) -> Any:
    network = quantize(exported.network, scales or exported.scales, plan)
    with torch.no_grad():
        return network(exported.images).numpy()


def test_the_graph_computes_what_fake_quantization_does(exported: Any, tmp_path: Path) -> None:
    model = insert_qdq(exported.graph, exported.scales, None, PLACEMENT["tensorrt"])
    actual = _predictions(model, tmp_path / "q.onnx", exported.images)
    with torch.no_grad():
        plain = exported.network(exported.images).numpy()
    expected = _fake_quantized(exported)
    parity = compare(expected, actual)
    error = compare(plain, expected)  # what quantization itself costs
    # Sums in another order carry a few values over a rounding boundary, and more in each layer
    # behind; the exact comparison is that of one operation, below.
    assert parity.box_mean_abs < 0.7 * error.box_mean_abs
    assert parity.score_mean_abs < 0.7 * error.score_mean_abs


@pytest.mark.parametrize(
    "name",
    [
        "backbone.stem.conv",
        "backbone.ERBlock_5.2.sppf.m",
        "backbone.ERBlock_5.2.sppf.cv2.block.conv",
        "neck.upsample1.upsample_transpose",
        "neck.Rep_n3.conv1.conv",
        "detect.reg_preds.0",
    ],
)
def test_one_operation_computes_exactly_what_fake_quantization_does(
    exported: Any, tmp_path: Path, name: str
) -> None:
    names = exported.scales.operations()
    plan = PrecisionPlan(
        operations={other: "int8" if other == name else "float" for other in names}, reason="test"
    )
    model = insert_qdq(exported.graph, exported.scales, plan, PLACEMENT["tensorrt"])
    actual = _predictions(model, tmp_path / "q.onnx", exported.images)
    with torch.no_grad():
        plain = exported.network(exported.images).numpy()
    expected = _fake_quantized(exported, plan)
    cost = compare(plain, expected).box_mean_abs
    assert cost > 0.0
    assert compare(expected, actual).box_mean_abs < 0.02 * cost


def test_unsigned_activations_are_at_least_as_close_to_float(exported: Any, tmp_path: Path) -> None:
    model = insert_qdq(exported.graph, exported.scales, None, PLACEMENT["onnxruntime"])
    actual = _predictions(model, tmp_path / "q.onnx", exported.images)
    with torch.no_grad():
        plain = exported.network(exported.images).numpy()
    signed = compare(plain, _fake_quantized(exported))
    assert compare(plain, actual).box_mean_abs < 1.05 * signed.box_mean_abs


@pytest.mark.parametrize("target", list(PLACEMENT))
def test_each_planned_operation_reads_pairs_and_each_tensor_has_one(
    exported: Any, target: str
) -> None:
    model = insert_qdq(exported.graph, exported.scales, None, PLACEMENT[target])
    producers = _producers(model)
    for kind in ("Conv", "ConvTranspose", "MaxPool"):
        for node in _nodes(model, kind):
            inputs = node.input[: 1 if kind == "MaxPool" else 2]
            assert {producers[name].op_type for name in inputs} == {"DequantizeLinear"}
    quantized = Counter(node.input[0] for node in _nodes(model, "QuantizeLinear"))
    assert set(quantized.values()) == {1}
    assert all("bias" not in name for name in quantized)


@pytest.mark.parametrize("target", list(PLACEMENT))
def test_biases_are_float_constants_that_the_convolution_reads_itself(
    exported: Any, target: str
) -> None:
    model = insert_qdq(exported.graph, exported.scales, None, PLACEMENT[target])
    constants = _constants(model)
    convolutions = [*_nodes(model, "Conv"), *_nodes(model, "ConvTranspose")]
    biases = [constants[node.input[2]] for node in convolutions if len(node.input) > 2]
    assert len(biases) > 40
    assert {bias.dtype for bias in biases} == {np.dtype(np.float32)}


@pytest.mark.parametrize("target", list(PLACEMENT))
def test_transposed_convolutions_have_one_weight_scale(exported: Any, target: str) -> None:
    model = insert_qdq(exported.graph, exported.scales, None, PLACEMENT[target])
    producers, constants = _producers(model), _constants(model)
    transposed = _nodes(model, "ConvTranspose")
    assert len(transposed) == 2
    for node in transposed:
        pair = producers[node.input[1]]
        assert constants[pair.input[1]].shape == constants[pair.input[2]].shape == ()
        assert not pair.attribute


def test_weights_are_pairs_for_tensorrt_and_integers_elsewhere(exported: Any) -> None:
    def kinds(target: str) -> Any:
        model = insert_qdq(exported.graph, exported.scales, None, PLACEMENT[target])
        constants = _constants(model)
        weights = [n for n in _nodes(model, "DequantizeLinear") if ".weight." in n.input[1]]
        return {constants.get(n.input[0], np.float32(0)).dtype for n in weights}, len(weights)

    num_weights = sum(scale.kind == "weight" for scale in exported.scales.scales.values())
    assert kinds("tensorrt") == ({np.dtype(np.float32)}, num_weights)
    assert kinds("openvino") == ({np.dtype(np.int8)}, num_weights)


def test_weight_scales_are_per_channel_but_for_transposed_convolutions(exported: Any) -> None:
    model = insert_qdq(exported.graph, exported.scales, None, PLACEMENT["openvino"])
    constants = _constants(model)
    producers = _producers(model)
    for node in [*_nodes(model, "Conv"), *_nodes(model, "ConvTranspose")]:
        dequantize = producers[node.input[1]]
        scale = constants[dequantize.input[1]]
        expected = exported.scales.scales[f"{node.name}.weight"].amax
        np.testing.assert_array_equal(
            scale.ravel(), np.asarray(expected, dtype=np.float32) / np.float32(127)
        )
        axes = [attribute.i for attribute in dequantize.attribute if attribute.name == "axis"]
        assert axes == ([] if node.op_type == "ConvTranspose" else [0])


def test_zero_points_are_zero_except_for_signed_tensors_of_processors(exported: Any) -> None:
    model = insert_qdq(exported.graph, exported.scales, None, PLACEMENT["tensorrt"])
    constants = _constants(model)
    used = [constants[n.input[2]] for n in _nodes(model, "DequantizeLinear")]
    assert all(zero.dtype == np.int8 and not zero.any() for zero in used)
    model = insert_qdq(exported.graph, exported.scales, None, PLACEMENT["onnxruntime"])
    constants = _constants(model)
    activations = [
        (producer, constants[node.input[2]])
        for node in _nodes(model, "QuantizeLinear")
        for producer in [_producers(model).get(node.input[0])]
    ]
    assert all(zero.dtype == np.uint8 for _, zero in activations)
    relu = {int(z) for p, z in activations if p is not None and p.op_type == "Relu"}
    silu = {int(z) for p, z in activations if p is not None and p.op_type == "Mul"}
    assert (relu, silu) == ({0}, {128})


def test_concat_inputs_carry_the_range_of_the_output(
    exported: Any, signed_pairs: Placement
) -> None:
    model = insert_qdq(exported.graph, exported.scales, None, PLACEMENT["onnxruntime"])
    producers, constants = _producers(model), _constants(model)
    quantized = {node.input[0]: node for node in _nodes(model, "QuantizeLinear")}
    concats = [node for node in _nodes(model, "Concat") if node.output[0] in quantized]
    assert len(concats) == 5  # SPPF and the four of the neck
    for concat in concats:
        for name in concat.input:
            assert producers[name].op_type == "DequantizeLinear"

    signed = insert_qdq(exported.graph, exported.scales, None, signed_pairs)
    producers, constants = _producers(signed), _constants(signed)
    quantized = {node.input[0]: node for node in _nodes(signed, "QuantizeLinear")}
    for concat in [node for node in _nodes(signed, "Concat") if node.output[0] in quantized]:
        own = constants[quantized[concat.output[0]].input[1]]
        scales = [constants[producers[name].input[1]] for name in concat.input]
        assert all(scale == own for scale in scales)


@pytest.mark.parametrize("target", list(PLACEMENT))
@pytest.mark.parametrize("seed", range(4))
def test_a_plan_of_some_members_of_a_group_leaves_their_ranges_equal(
    exported: Any, target: str, seed: int
) -> None:
    """Whatever the plan: tensors that meet in a concat are quantized over one range."""
    names = list(exported.scales.operations())
    kept = set(np.random.default_rng(seed).permutation(names)[: len(names) // 4].tolist())
    plan = PrecisionPlan(
        operations={name: "float" if name in kept else "int8" for name in names}, reason=""
    )
    model = insert_qdq(exported.graph, exported.scales, plan, PLACEMENT[target])
    constants = _constants(model)
    ranges: dict[str, set[float]] = {}
    for node in _nodes(model, "QuantizeLinear"):
        zero = constants[node.input[2]]
        steps = 255 if zero.dtype == np.uint8 and not zero.any() else 127
        if zero.ndim == 0 and ".weight" not in node.input[0]:
            ranges.setdefault(node.input[0], set()).add(float(constants[node.input[1]]) * steps)
    compared = 0
    producers = _producers(model)
    for concat in _nodes(model, "Concat"):
        tensors = {concat.output[0], *concat.input}
        for name in [concat.output[0], *concat.input]:
            while name in producers and producers[name].op_type.endswith("Linear"):
                name = producers[name].input[0]
            tensors.add(name)
        found = [amax for name in tensors for amax in ranges.get(name, ())]
        compared += len(found) > 1
        assert np.ptp(found or [0.0]) < 1e-5 * max(found or [1.0])
    assert compared


def test_pairs_on_concat_inputs_change_no_value(
    exported: Any, tmp_path: Path, signed_pairs: Placement
) -> None:
    with_pairs = insert_qdq(exported.graph, exported.scales, None, signed_pairs)
    without = insert_qdq(exported.graph, exported.scales, None, PLACEMENT["tensorrt"])
    images = exported.images
    np.testing.assert_allclose(
        _predictions(with_pairs, tmp_path / "a.onnx", images),
        _predictions(without, tmp_path / "b.onnx", images),
        atol=1e-4,
    )


def test_a_plan_leaves_its_float_operations_alone(exported: Any) -> None:
    names = list(exported.scales.operations())
    plan = all_int8(names, keep_float=["detect"])
    model = insert_qdq(exported.graph, exported.scales, plan, PLACEMENT["openvino"])
    producers = _producers(model)
    for node in _nodes(model, "Conv"):
        pair = producers.get(node.input[1])
        assert (pair is None) == node.name.startswith("detect")


def test_weights_beyond_their_range_are_cut_to_127_levels(exported: Any) -> None:
    name = "backbone.stem.conv"
    weight = exported.scales.scales[f"{name}.weight"]
    half = dataclasses.replace(weight, amax=tuple(value / 2 for value in weight.amax))
    scales = dataclasses.replace(
        exported.scales, scales={**exported.scales.scales, f"{name}.weight": half}
    )
    folded = insert_qdq(exported.graph, scales, None, PLACEMENT["openvino"])
    codes = _constants(folded)[f"{name}.weight.int8"]
    assert (codes.min(), codes.max()) == (-127, 127)
    pairs = _constants(insert_qdq(exported.graph, scales, None, PLACEMENT["tensorrt"]))
    steps = pairs[f"{name}.weight.scale"].reshape(-1, 1, 1, 1)
    np.testing.assert_array_equal(np.rint(pairs[f"{name}.weight"] / steps), codes)


def test_the_input_graph_stays_as_it_is(exported: Any) -> None:
    before = exported.graph.SerializeToString(deterministic=True)
    insert_qdq(exported.graph, exported.scales, None, PLACEMENT["tensorrt"])
    assert exported.graph.SerializeToString(deterministic=True) == before


def test_unequal_ranges_of_one_tensor_get_a_pair_each(exported: Any) -> None:
    name = "detect.cls_convs.0.block.conv.input"
    wider = dataclasses.replace(exported.scales.scales[name], amax=(100.0,))
    scales = dataclasses.replace(exported.scales, scales={**exported.scales.scales, name: wider})
    model = insert_qdq(exported.graph, scales, None, PLACEMENT["openvino"])
    onnx.checker.check_model(model, full_check=True)
    counts = Counter(node.input[0] for node in _nodes(model, "QuantizeLinear"))
    assert sorted(counts.values())[-2:] == [1, 2]


def _without(scales: ScaleCache, name: str) -> ScaleCache:
    kept = {key: value for key, value in scales.scales.items() if key != name}
    return dataclasses.replace(scales, scales=kept)


def test_a_missing_range_names_the_tensor(exported: Any) -> None:
    scales = _without(exported.scales, "detect.stems.1.block.conv.weight")
    with pytest.raises(ArtifactError, match=r"detect\.stems\.1\.block\.conv\.weight"):
        insert_qdq(exported.graph, scales, None, PLACEMENT["openvino"])


def test_an_unknown_operation_names_the_nearest(exported: Any) -> None:
    plan = PrecisionPlan(operations={"backbone.stem.convv": "int8"}, reason="test")
    with pytest.raises(ArtifactError, match=r"did you mean 'backbone\.stem\.conv'"):
        insert_qdq(exported.graph, exported.scales, plan, PLACEMENT["openvino"])


@pytest.mark.parametrize(
    ("tensor", "change", "told"),
    [
        ("neck.upsample0.upsample_transpose.weight", {"axis": 0, "amax": (1.0,) * 16}, "axis 0"),
        ("backbone.stem.conv.weight", {"axis": 0, "amax": (1.0, 1.0)}, "2 ranges"),
        ("backbone.stem.conv.weight", {"number_format": INT4}, "is int4, the engine takes int8"),
        ("backbone.stem.conv.input", {"axis": 0, "amax": (1.0, 1.0, 1.0)}, "per channel"),
    ],
)
def test_ranges_that_engines_cannot_take_are_refused(
    exported: Any, tensor: str, change: Any, told: str
) -> None:
    changed = dataclasses.replace(exported.scales.scales[tensor], **change)
    scales = dataclasses.replace(
        exported.scales, scales={**exported.scales.scales, tensor: changed}
    )
    with pytest.raises(ArtifactError, match=told):
        insert_qdq(exported.graph, scales, None, PLACEMENT["openvino"])


def _corrected(scales: ScaleCache, channels: dict[str, int]) -> ScaleCache:
    values = {name: tuple(0.05 * (i + 1) for i in range(n)) for name, n in channels.items()}
    return dataclasses.replace(scales, bias_corrections=values)


CORRECTED = {"backbone.stem.conv": 8, "neck.upsample0.upsample_transpose": 32}


@pytest.mark.parametrize("target", list(PLACEMENT))
def test_biases_are_corrected_where_an_operation_is_quantized(exported: Any, target: str) -> None:
    scales = _corrected(exported.scales, CORRECTED)
    plain = _constants(exported.graph)
    plan = all_int8(scales.operations(), keep_float=["backbone.stem"])
    for name in CORRECTED:
        bias = plain[f"{name}.bias"]
        added = np.asarray(scales.bias_corrections[name], dtype=np.float32)
        everywhere = _constants(insert_qdq(exported.graph, scales, None, PLACEMENT[target]))
        np.testing.assert_array_equal(everywhere[f"{name}.bias"], bias + added)
        planned = _constants(insert_qdq(exported.graph, scales, plan, PLACEMENT[target]))
        expected = bias if name == "backbone.stem.conv" else bias + added
        np.testing.assert_array_equal(planned[f"{name}.bias"], expected)


@pytest.mark.parametrize("name", CORRECTED)
def test_a_corrected_operation_computes_what_fake_quantization_does(
    exported: Any, tmp_path: Path, name: str
) -> None:
    scales = _corrected(exported.scales, CORRECTED)
    plan = PrecisionPlan(
        operations={n: "int8" if n == name else "float" for n in scales.operations()}, reason=""
    )
    model = insert_qdq(exported.graph, scales, plan, PLACEMENT["tensorrt"])
    actual = _predictions(model, tmp_path / "q.onnx", exported.images)
    expected = _fake_quantized(exported, plan, scales)
    plain = _fake_quantized(exported, plan)
    assert compare(plain, expected).box_mean_abs > 0.0
    assert compare(expected, actual).box_mean_abs < 0.02 * compare(plain, expected).box_mean_abs


def test_a_correction_stands_in_for_a_bias_of_zeros_that_the_exporter_dropped(
    exported: Any, tmp_path: Path
) -> None:
    name = "neck.upsample0.upsample_transpose"
    scales = _corrected(exported.scales, CORRECTED)
    graph = onnx.ModelProto()
    graph.CopyFrom(exported.graph)
    (node,) = (n for n in _nodes(graph, "ConvTranspose") if n.name == name)
    del node.input[2:]
    (unused,) = (t for t in graph.graph.initializer if t.name == f"{name}.bias")
    graph.graph.initializer.remove(unused)
    model = insert_qdq(graph, scales, None, PLACEMENT["openvino"])
    added = np.asarray(scales.bias_corrections[name], dtype=np.float32)
    np.testing.assert_array_equal(_constants(model)[f"{name}.bias"], added)
    assert np.isfinite(_predictions(model, tmp_path / "q.onnx", exported.images)).all()


def test_corrections_that_fit_no_operation_are_refused(exported: Any) -> None:
    scales = _corrected(exported.scales, {"backbone.stem.conv": 7})
    with pytest.raises(ArtifactError, match="does not take 7 bias corrections"):
        insert_qdq(exported.graph, scales, None, PLACEMENT["openvino"])
    with pytest.raises(ArtifactError, match="has 8 biases and 7 corrections"):
        quantize(exported.network, scales)


@pytest.mark.parametrize("name", ["backbone.ERBlock_2.0.conv", "neck.upsample0.upsample_transpose"])
def test_integers_that_were_chosen_are_those_of_the_graph(
    exported: Any, tmp_path: Path, name: str
) -> None:
    """Weights moved past the boundary have the same codes here as in fake quantization."""
    network, scale = copy.deepcopy(exported.network), exported.scales.scales[f"{name}.weight"]
    weight = network.get_parameter(f"{name}.weight")
    generator = torch.Generator().manual_seed(8)
    step = torch.randint(-1, 2, weight.shape, generator=generator)
    wanted = (codes_of(weight, scale).int() + step).clamp(-127, 127).to(torch.int8)
    with torch.no_grad():
        weight.copy_(weight_with_codes(weight, wanted, scale))
    export_float(network, tmp_path / "moved.onnx", image_size=(64, 64), batch=1, opset=20)
    graph = read_graph(tmp_path / "moved.onnx")
    assert codes_of(
        quantize(network, exported.scales).get_parameter(f"{name}.weight"), scale
    ).equal(wanted)
    folded = _constants(insert_qdq(graph, exported.scales, None, PLACEMENT["openvino"]))
    np.testing.assert_array_equal(folded[f"{name}.weight.int8"], wanted.numpy())
    pairs = _constants(insert_qdq(graph, exported.scales, None, PLACEMENT["tensorrt"]))
    steps = pairs[f"{name}.weight.scale"].reshape((-1, 1, 1, 1) if scale.axis == 0 else ())
    np.testing.assert_array_equal(np.rint(pairs[f"{name}.weight"] / steps), wanted.numpy())
