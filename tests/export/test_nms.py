from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest

from quantpipe.engines.registry import ENGINES
from quantpipe.errors import ArtifactError
from quantpipe.evaluation.postprocess import detections
from quantpipe.export.half import to_half
from quantpipe.export.nms import NmsForm, append_nms, with_standard_nms
from quantpipe.export.onnx_graph import write_graph
from quantpipe.export.qdq import insert_qdq
from quantpipe.export.simplify import qdq_scales, simplify
from quantpipe.export.verify import unoptimized, unoptimized_outputs
from quantpipe.graph.suppression import Suppression

PLACEMENT = {name: spec.placement for name, spec in ENGINES.items()}

NAMES = ("a", "b", "c")
FORMS = pytest.mark.parametrize("form", ["onnx", "tensorrt"])


def settings(**changes: Any) -> Suppression:
    return Suppression(**{"confidence": 0.3, "iou": 0.5, "max_detections": 20, **changes})


def predicting(num_anchors: int, num_classes: int, opset: int = 17) -> onnx.ModelProto:
    """A graph whose predictions are its input."""
    shape: list[Any] = ["batch", num_anchors, 5 + num_classes]
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node("Identity", ["rows"], ["predictions"], name="rows")],
        "g",
        [onnx.helper.make_tensor_value_info("rows", 1, shape)],
        [onnx.helper.make_tensor_value_info("predictions", 1, shape)],
    )
    opsets = [onnx.helper.make_opsetid("", opset)]
    return onnx.helper.make_model(graph, opset_imports=opsets, ir_version=8)


def random_rows(num_images: int, num_anchors: int, num_classes: int, seed: int) -> np.ndarray:
    """Crowded boxes whose scores are multiples of 1/64: many are equal."""
    rng = np.random.default_rng(seed)
    boxes = rng.random((num_images, num_anchors, 4)) * [90, 90, 40, 40] + [0, 0, 4, 4]
    objectness = rng.integers(32, 65, (num_images, num_anchors, 1)) / 64
    scores = rng.integers(0, 65, (num_images, num_anchors, num_classes)) / 64
    return np.concatenate([boxes, objectness, scores], axis=2).astype(np.float32)


def brute_force(rows: np.ndarray, chosen: Suppression) -> list[tuple[float, int, int]]:
    """(score, class, anchor) of what is kept of one image, box by box as a definition would."""

    def overlap(a: np.ndarray, b: np.ndarray) -> float:
        if min(*a[2:], *b[2:]) <= 0:
            return 0.0
        low = np.maximum(a[:2] - a[2:] / 2, b[:2] - b[2:] / 2)
        high = np.minimum(a[:2] + a[2:] / 2, b[:2] + b[2:] / 2)
        shared = float(np.prod(np.clip(high - low, 0, None)))
        return shared / float(a[2] * a[3] + b[2] * b[3] - shared)

    scores = rows[:, 5:] * rows[:, 4:5]
    kept: list[tuple[float, int, int]] = []
    for label in range(scores.shape[1]):
        mine: list[int] = []
        for anchor in np.argsort(-scores[:, label], kind="stable").tolist():
            if scores[anchor, label] > chosen.confidence and all(
                overlap(rows[anchor, :4], rows[other, :4]) <= chosen.iou for other in mine
            ):
                mine.append(anchor)
        kept += [(float(scores[anchor, label]), label, anchor) for anchor in mine]
    return sorted(kept, key=lambda item: (-item[0], *item[1:]))[: chosen.max_detections]


def _run(model: onnx.ModelProto, **feeds: np.ndarray) -> list[np.ndarray]:
    content = with_standard_nms(model).SerializeToString()
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    outputs: list[np.ndarray] = session.run(None, feeds)
    return outputs


@FORMS
@pytest.mark.parametrize(
    ("num_anchors", "num_classes", "changes"),
    [
        (120, 3, {}),
        (120, 3, {"confidence": 0.0, "max_detections": 500}),
        (120, 1, {"iou": 0.0}),
        (60, 4, {"iou": 1.0, "max_detections": 7}),
        (3, 2, {"max_detections": 50}),  # more than there are scores
    ],
)
def test_what_is_kept_is_what_the_definition_keeps(
    form: NmsForm, num_anchors: int, num_classes: int, changes: dict[str, Any]
) -> None:
    chosen = settings(**changes)
    names = [str(number) for number in range(num_classes)]
    model = append_nms(predicting(num_anchors, num_classes), chosen, names, form)
    onnx.checker.check_model(model, full_check=True)
    rows = random_rows(3, num_anchors, num_classes, seed=num_anchors + num_classes)
    rows[1, :, 4] = 0  # nothing in the second image
    rows[2, ::5, 2] *= -1
    counts, boxes, scores, labels = _run(model, rows=rows)
    count = chosen.max_detections
    assert [(*a.shape, a.dtype.name) for a in (counts, boxes, scores, labels)] == [
        (3, 1, "int32"),
        (3, count, 4, "float32"),
        (3, count, "float32"),
        (3, count, "int32"),
    ]
    for image in range(3):
        expected = brute_force(rows[image], chosen)
        number = int(counts[image, 0])
        assert number == len(expected) == (0 if image == 1 else number)
        assert scores[image, :number].tolist() == [score for score, _, _ in expected]
        assert labels[image, :number].tolist() == [label for _, label, _ in expected]
        chosen_rows = rows[image, np.array([anchor for _, _, anchor in expected], dtype=int)]
        center, half = chosen_rows[:, :2], np.maximum(chosen_rows[:, 2:4], 0) / 2
        corners = np.concatenate([center - half, center + half], axis=1)
        np.testing.assert_array_equal(boxes[image, :number], corners)
        for array in (boxes, scores, labels):
            assert not array[image, number:].any()


@FORMS
def test_what_is_kept_of_a_networks_predictions_is_what_we_keep(
    exported: Any, crowded: Any, tmp_path: Path, form: NmsForm
) -> None:
    images = exported.images.numpy()
    write_graph(tmp_path / "raw.onnx", crowded)
    predictions = unoptimized(tmp_path / "raw.onnx")(images)
    confidence = float(np.quantile(predictions[..., 5:], 0.5))
    assert (predictions[..., 5:] > confidence).sum(axis=(1, 2)).min() > 100
    chosen = settings(confidence=confidence, max_detections=200)
    write_graph(tmp_path / "n.onnx", append_nms(crowded, chosen, NAMES, form))
    for batch in (1, 4):
        outputs: Any = unoptimized_outputs(tmp_path / "n.onnx")(images[:batch])
        counts, boxes, scores, labels = outputs
        kept = detections(predictions[:batch], confidence=confidence, iou=0.5, max_detections=200)
        assert [len(rows) for rows in kept] == counts[:, 0].tolist()
        assert 5 < counts.min() <= counts.max() < 200
        for image, rows in enumerate(kept):
            number = len(rows)
            np.testing.assert_allclose(boxes[image, :number], rows[:, :4], rtol=1e-5, atol=1e-4)
            np.testing.assert_allclose(scores[image, :number], rows[:, 4], atol=1e-6)
            np.testing.assert_array_equal(labels[image, :number], rows[:, 5])
    # The same in the form of predictions: suppressed once more, nothing changes.
    again = detections(
        unoptimized(tmp_path / "n.onnx")(images), confidence=confidence, iou=0.5, max_detections=200
    )
    for before, after in zip(kept, again, strict=True):
        np.testing.assert_allclose(after, before, rtol=1e-4, atol=1e-3)


@FORMS
@pytest.mark.parametrize("target", [None, *PLACEMENT])
def test_suppression_is_in_float32_and_leaves_the_graph_before_it_as_it_was(
    exported: Any, target: str | None, form: NmsForm
) -> None:
    graph = exported.graph
    if target is not None:
        graph = insert_qdq(graph, exported.scales, None, PLACEMENT[target])
    graph = simplify(to_half(graph))
    detecting = append_nms(graph, settings(), NAMES, form)
    before = {node.name: node.SerializeToString(deterministic=True) for node in graph.graph.node}
    after = {n.name: n.SerializeToString(deterministic=True) for n in detecting.graph.node}
    assert before.items() <= after.items()
    added = [node for node in detecting.graph.node if node.name not in before]
    assert all(node.name.startswith("nms.") for node in added)
    assert qdq_scales(detecting) == qdq_scales(graph)
    inferred = onnx.shape_inference.infer_shapes(with_standard_nms(detecting))
    types = {value.name: value.type.tensor_type.elem_type for value in inferred.graph.value_info}
    made = {types[name] for name in types if name.startswith("nms.")}
    assert onnx.TensorProto.FLOAT in made
    assert onnx.TensorProto.FLOAT16 not in made
    # Made half once more, as an engine that takes types from the graph asks for: still float32.
    again = to_half(append_nms(exported.graph, settings(), NAMES, form))
    kinds = {value.name: value.type.tensor_type.elem_type for value in again.graph.value_info}
    assert kinds["nms.boxes"] == kinds["nms.scores"] == onnx.TensorProto.FLOAT


def test_the_plugin_is_as_tensorrt_takes_it() -> None:
    model = append_nms(predicting(30, 3), settings(), NAMES, "tensorrt")
    (node,) = (node for node in model.graph.node if node.domain == "TRT")
    assert node.op_type == "EfficientNMS_TRT"
    found = {item.name: onnx.helper.get_attribute_value(item) for item in node.attribute}
    assert found == {
        "plugin_version": b"1",
        "score_threshold": pytest.approx(0.3),
        "iou_threshold": 0.5,
        "max_output_boxes": 20,
        "background_class": -1,
        "score_activation": 0,
        "class_agnostic": 0,
        "box_coding": 0,
    }
    assert {item.domain for item in model.opset_import} == {"", "TRT"}
    shapes = {
        value.name: [dim.dim_value or dim.dim_param for dim in value.type.tensor_type.shape.dim]
        for value in (*model.graph.value_info, *model.graph.output)
    }
    assert [shapes[name] for name in node.input] == [["batch", 30, 4], ["batch", 30, 3]]
    assert list(node.output) == ["num_dets", "det_boxes", "det_scores", "det_classes"]
    assert shapes["det_boxes"] == ["batch", 20, 4]


def test_names_of_classes_are_in_the_file() -> None:
    model = append_nms(predicting(30, 2), settings(), ["red cell", 'the "other"'], "onnx")
    texts = {item.key: item.value for item in model.metadata_props}
    assert texts == {"class_names": '["red cell", "the \\"other\\""]'}


def test_a_graph_of_other_predictions_is_refused() -> None:
    with pytest.raises(ArtifactError, match=r"\['batch', '30', '7'\], not .*5 \+ 3"):
        append_nms(predicting(30, 2), settings(), NAMES, "onnx")
    twice = append_nms(predicting(30, 3), settings(), NAMES, "onnx")
    with pytest.raises(ArtifactError, match="export it without nms"):
        append_nms(twice, settings(), NAMES, "onnx")


def test_the_graph_given_stays_as_it_is() -> None:
    model = predicting(30, 3)
    before = model.SerializeToString(deterministic=True)
    made = append_nms(model, settings(), NAMES, "tensorrt")
    kept = made.SerializeToString(deterministic=True)
    with_standard_nms(made)
    assert model.SerializeToString(deterministic=True) == before
    assert made.SerializeToString(deterministic=True) == kept
    assert with_standard_nms(model) is model
