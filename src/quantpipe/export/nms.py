"""Non-maximum suppression as the last part of a graph, which then hands out detections.

The outputs are those of :mod:`quantpipe.graph.detections`. They have static shapes but for the
batch, and are computed in float32 whatever the graph before them computes in.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import onnx
import onnx_ir as ir
from numpy.typing import NDArray

from quantpipe.errors import ArtifactError
from quantpipe.graph.onnx_file import CLASS_NAMES_KEY, DETECTION_OUTPUTS
from quantpipe.graph.suppression import Suppression

NmsForm = Literal["onnx", "tensorrt"]

_FIRST_CLASS = 5
_PLUGIN, _PLUGIN_DOMAIN = "EfficientNMS_TRT", "TRT"


def append_nms(
    model: onnx.ModelProto, settings: Suppression, class_names: Sequence[str], form: NmsForm
) -> onnx.ModelProto:
    """Returns a copy of a graph that hands out detections in place of predictions.

    Nothing before its predictions changes. A box of negative size counts as one of no size, which
    overlaps nothing. The names of the classes go into its metadata, as a
    JSON list under ``class_names``.

    Args:
        model: Its one output is (B, A, 5 + classes) float32: center x, center y, width, height in
            pixels, objectness, class scores.
        settings: What is kept.
        class_names: In the order of the scores.
        form: ``onnx`` for the operator ``NonMaxSuppression``, class by class, and what packs its
            result; ``tensorrt`` for TensorRT's plugin ``EfficientNMS_TRT``, which looks at the 4096
            most confident candidates of an image.

    Raises:
        ArtifactError: The model's output is not of that shape.
    """
    edited = ir.from_proto(onnx.shape_inference.infer_shapes(model))
    candidates = _candidates(edited.graph, len(class_names))
    add = _plugin if form == "tensorrt" else _standard
    edited.graph.outputs[:] = add(edited.graph, candidates, settings)
    if form == "tensorrt":
        edited.graph.opset_imports[_PLUGIN_DOMAIN] = 1
    edited.metadata_props[CLASS_NAMES_KEY] = json.dumps(list(class_names))
    return ir.to_proto(edited)


def with_standard_nms(model: onnx.ModelProto) -> onnx.ModelProto:
    """Returns a model with ``NonMaxSuppression`` in place of TensorRT's plugin, if it has that.

    It computes the same, and runs where TensorRT is not.
    """
    if not any(node.op_type == _PLUGIN for node in model.graph.node):
        return model
    edited = ir.from_proto(model)
    (plugin,) = (node for node in edited.graph if node.op_type == _PLUGIN)
    boxes, scores = plugin.inputs[:2]
    assert boxes is not None
    assert scores is not None
    settings = Suppression(
        confidence=plugin.attributes["score_threshold"].as_float(),
        iou=plugin.attributes["iou_threshold"].as_float(),
        max_detections=plugin.attributes["max_output_boxes"].as_int(),
    )
    edited.graph.outputs.clear()
    edited.graph.remove(plugin, safe=True)
    del edited.graph.opset_imports[_PLUGIN_DOMAIN]
    candidates = _Candidates(boxes=boxes, scores=scores)
    edited.graph.outputs.extend(_standard(edited.graph, candidates, settings))
    return ir.to_proto(edited)


@dataclass(frozen=True, kw_only=True)
class _Candidates:
    """Corners x1, y1, x2, y2 (B, A, 4) and scores (B, A, C) of what may be kept."""

    boxes: ir.Value
    scores: ir.Value

    @property
    def batch(self) -> int | ir.SymbolicDim:
        return _dims(self.scores)[0]

    @property
    def num_anchors(self) -> int:
        return int(_dims(self.scores)[1])  # type: ignore[arg-type]  # checked where it was made

    @property
    def num_classes(self) -> int:
        return int(_dims(self.scores)[2])  # type: ignore[arg-type]


def _candidates(graph: ir.Graph, num_classes: int) -> _Candidates:
    predictions, *others = graph.outputs
    dims = _dims(predictions)
    width = _FIRST_CLASS + num_classes
    if others or len(dims) != 3 or not isinstance(dims[1], int) or dims[2] != width:
        raise ArtifactError(
            f"predicts {[str(dim) for dim in dims]}, not (batch, anchors, 5 + {num_classes})",
            hint="export it without nms",
        )
    tail = _Tail(graph)
    center, size = (
        tail.columns("center", predictions, 0, 2),
        tail.columns("size", predictions, 2, 4),
    )
    # Runtimes would turn a box of negative size inside out, and let it suppress.
    size = tail.add("Relu", "positive_size", size)
    half = tail.add("Mul", "half", size, tail.constant("one_half", np.float32(0.5)))
    left_top, right_bottom = (
        tail.add("Sub", "left_top", center, half),
        tail.add("Add", "right_bottom", center, half),
    )
    boxes = tail.add("Concat", "boxes", left_top, right_bottom, axis=2)
    objectness = tail.columns("objectness", predictions, 4, _FIRST_CLASS)
    classes = tail.columns("class_scores", predictions, _FIRST_CLASS, width)
    scores = tail.add("Mul", "scores", classes, objectness)
    for value, last in ((boxes, 4), (scores, num_classes)):
        value.dtype, value.shape = ir.DataType.FLOAT, ir.Shape([*dims[:2], last])
    return _Candidates(boxes=boxes, scores=scores)


def _plugin(graph: ir.Graph, candidates: _Candidates, settings: Suppression) -> list[ir.Value]:
    node = ir.Node(
        _PLUGIN_DOMAIN,
        _PLUGIN,
        [candidates.boxes, candidates.scores],
        [
            ir.AttrString("plugin_version", "1"),
            ir.AttrFloat32("score_threshold", settings.confidence),
            ir.AttrFloat32("iou_threshold", settings.iou),
            ir.AttrInt64("max_output_boxes", settings.max_detections),
            ir.AttrInt64("background_class", -1),
            ir.AttrInt64("score_activation", 0),
            ir.AttrInt64("class_agnostic", 0),
            ir.AttrInt64("box_coding", 0),  # corners
        ],
        num_outputs=len(DETECTION_OUTPUTS),
        name="nms.plugin",
    )
    graph.append(node)
    return _named(list(node.outputs), candidates, settings)


def _standard(graph: ir.Graph, candidates: _Candidates, settings: Suppression) -> list[ir.Value]:
    """``NonMaxSuppression``, and the K best of what it keeps of each image.

    It tells (image, class, anchor) of what it keeps, as many rows as there are. Their scores are
    put back into an array of zeros, (B, classes, anchors), from which TopK takes a fixed number.
    """
    tail = _Tail(graph)
    by_class = tail.add("Transpose", "by_class", candidates.scores, perm=[0, 2, 1])
    kept = tail.add(
        "NonMaxSuppression",
        "kept",
        candidates.boxes,
        by_class,
        tail.constant("max_per_class", np.array([settings.max_detections])),
        tail.constant("iou", np.array([settings.iou], dtype=np.float32)),
        tail.constant("confidence", np.array([settings.confidence], dtype=np.float32)),
    )
    nothing = tail.add("ConstantOfShape", "nothing", tail.add("Shape", "shape", by_class))
    scores = tail.add("GatherND", "kept_scores", by_class, kept)
    sparse = tail.add("ScatterND", "sparse", nothing, kept, scores)
    flat = tail.add("Reshape", "flat", sparse, tail.constant("flat_shape", np.array([0, -1])))
    missing = settings.max_detections - candidates.num_anchors * candidates.num_classes
    if missing > 0:
        flat = tail.add(
            "Pad", "filled", flat, tail.constant("missing", np.array([0, 0, 0, missing]))
        )
    return _packed(tail, candidates, flat, settings)


def _packed(
    tail: _Tail, candidates: _Candidates, flat: ir.Value, settings: Suppression
) -> list[ir.Value]:
    """Outputs from the scores of what is kept, zero for all else: (B, classes * anchors)."""
    count = tail.constant("count", np.array([settings.max_detections]))
    best, place = tail.add_several("TopK", ("best", "place"), flat, count, axis=1)
    num_anchors = tail.constant("num_anchors", np.array(candidates.num_anchors))
    zero, last_axis = tail.constant("zero", np.float32(0)), tail.constant("last", np.array([2]))
    found = tail.add("Greater", "found", best, zero)
    one_each = tail.add("Cast", "one_each", found, to=int(ir.DataType.INT32))
    label = tail.add("Div", "label", place, num_anchors)
    label = tail.add("Cast", "short_label", label, to=int(ir.DataType.INT32))
    anchor = tail.add("Mod", "anchor", place, num_anchors)
    anchor = tail.add("Unsqueeze", "anchor_index", anchor, last_axis)
    box = tail.add("GatherND", "box", candidates.boxes, anchor, batch_dims=1)
    has_box = tail.add("Unsqueeze", "has_box", found, last_axis)
    outputs = [
        tail.add("ReduceSum", "num_dets", one_each, tail.constant("axis", np.array([1]))),
        tail.add("Where", "det_boxes", has_box, box, zero),
        tail.add("Where", "det_scores", found, best, zero),
        tail.add("Where", "det_classes", found, label, tail.constant("none", np.int32(0))),
    ]
    return _named(outputs, candidates, settings)


def _named(
    outputs: list[ir.Value], candidates: _Candidates, settings: Suppression
) -> list[ir.Value]:
    batch, count = candidates.batch, settings.max_detections
    shapes = ([batch, 1], [batch, count, 4], [batch, count], [batch, count])
    types = (ir.DataType.INT32, ir.DataType.FLOAT, ir.DataType.FLOAT, ir.DataType.INT32)
    for output, name, dtype, shape in zip(outputs, DETECTION_OUTPUTS, types, shapes, strict=True):
        output.name, output.dtype, output.shape = name, dtype, ir.Shape(shape)
    return outputs


def _dims(value: ir.Value) -> tuple[int | ir.SymbolicDim, ...]:
    return () if value.shape is None else tuple(value.shape.dims)


@dataclass(frozen=True)
class _Tail:
    """Appends nodes to a graph; their names begin with ``nms.``."""

    graph: ir.Graph

    def add(
        self, kind: str, name: str, *inputs: ir.Value, **attributes: int | list[int]
    ) -> ir.Value:
        """Appends a node and returns its output."""
        return self.add_several(kind, (name,), *inputs, **attributes)[0]

    def add_several(
        self, kind: str, names: tuple[str, ...], *inputs: ir.Value, **attributes: int | list[int]
    ) -> tuple[ir.Value, ...]:
        """Appends a node and returns its outputs."""
        node = ir.node(kind, inputs, attributes, num_outputs=len(names), name=f"nms.{names[0]}")
        for output, name in zip(node.outputs, names, strict=True):
            output.name = f"nms.{name}"
        self.graph.append(node)
        return tuple(node.outputs)

    def constant(self, name: str, values: NDArray[np.generic] | np.generic) -> ir.Value:
        """Adds an initializer."""
        array = np.asarray(values)
        value = ir.Value(name=f"nms.{name}", const_value=ir.tensor(array, name=f"nms.{name}"))
        value.dtype, value.shape = ir.DataType.from_numpy(array.dtype), ir.Shape(array.shape)
        self.graph.register_initializer(value)
        return value

    def columns(self, name: str, value: ir.Value, start: int, stop: int) -> ir.Value:
        """Appends the choice of some columns of the last of three axes."""
        bounds = (
            self.constant(f"{name}.{what}", np.array([number]))
            for what, number in (("start", start), ("stop", stop), ("axis", 2))
        )
        return self.add("Slice", name, value, *bounds)
