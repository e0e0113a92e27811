"""Reading an ONNX file so that it leads no library outside itself or past what that knows."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import onnx
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]

from quantpipe.errors import ArtifactError
from quantpipe.given_files import read_bytes, require_file

CLASS_NAMES_KEY = "class_names"
DETECTION_OUTPUTS = ("num_dets", "det_boxes", "det_scores", "det_classes")
"""Of a graph that suppresses by itself (:mod:`quantpipe.graph.detections`)."""

_LARGEST = 2**31 - 1
_STANDARD = ("", "ai.onnx")
_CHANNELS = 3


@dataclass(frozen=True, kw_only=True)
class OnnxFile:
    """A whole ONNX file: its bytes, and the model that they are."""

    content: bytes
    model: onnx.ModelProto


def read_onnx(path: Path) -> OnnxFile:
    """Reads a self-contained ONNX file.

    A library would follow a reference to data in another file wherever it points (outside the
    folder, through a hard link, over any length), so a model with any such reference is refused
    before a library sees it, and nothing of the other file is ever opened.

    Raises:
        ArtifactError: It is not a whole ONNX file, refers to another one, or its opset is newer
            than what the ``onnx`` package here can check.
    """
    content = _bytes(path)
    try:
        model = onnx.load_model_from_string(content)
    except DecodeError as error:
        raise ArtifactError("is not a whole ONNX file", path=path) from error
    if not model.graph.output:
        raise ArtifactError("is not a whole ONNX file: it has no output", path=path)
    _require_self_contained(path, model)
    newest = onnx.defs.onnx_opset_version()
    require_opset(path, standard_opset(model), newest, f"onnx {onnx.__version__}")
    return OnnxFile(content=content, model=model)


def standard_opset(model: onnx.ModelProto) -> int:
    """Returns the opset of ONNX's own operators that a model uses; 0 where it uses none."""
    return max((item.version for item in model.opset_import if item.domain in _STANDARD), default=0)


def require_opset(path: Path, opset: int, limit: int, library: str) -> None:
    """Refuses a model's opset that is newer than ``limit``, the newest that a library takes.

    Raises:
        ArtifactError: With both, and what to do.
    """
    if opset > limit:
        raise ArtifactError(
            f"uses opset {opset}, {library} takes opsets up to {limit}",
            path=path,
            hint=f"set export.opset={limit} or less, or install a newer {library.split()[0]}",
        )


def input_size(path: Path, model: onnx.ModelProto) -> tuple[int, int]:
    """Returns height and width in pixels of the images (batch, 3, H, W) that a model takes.

    Raises:
        ArtifactError: It takes something else.
    """
    shapes = [
        [dim.dim_value for dim in value.type.tensor_type.shape.dim] for value in model.graph.input
    ]
    if len(shapes) == 1 and len(shapes[0]) == 4:
        _, channels, height, width = shapes[0]
        if channels == _CHANNELS and min(height, width) > 0:
            return int(height), int(width)
    raise ArtifactError(f"its inputs are {shapes}, not one of (batch, 3, H, W)", path=path)


def num_detected_classes(path: Path, model: onnx.ModelProto) -> int | None:
    """Returns how many classes a graph that hands out detections knows; None for predictions.

    Raises:
        ArtifactError: It hands out detections and does not name its classes.
    """
    if tuple(output.name for output in model.graph.output) != DETECTION_OUTPUTS:
        return None
    names = class_names(path, model)
    if names is None:
        raise ArtifactError(
            "hands out detections and does not name its classes",
            path=path,
            hint=f"put a JSON list of them into its metadata as '{CLASS_NAMES_KEY}'",
        )
    return len(names)


def class_names(path: Path, model: onnx.ModelProto) -> tuple[str, ...] | None:
    """Returns the names that a model holds of its classes; None where it holds none.

    Raises:
        ArtifactError: What it holds are no names.
    """
    texts = [item.value for item in model.metadata_props if item.key == CLASS_NAMES_KEY]
    if not texts:
        return None
    try:
        names = json.loads(texts[-1])
    except ValueError:
        names = None
    if not isinstance(names, list) or not names or not all(isinstance(n, str) for n in names):
        raise ArtifactError(f"its '{CLASS_NAMES_KEY}' is not a JSON list of names", path=path)
    return tuple(names)


def _bytes(path: Path) -> bytes:
    require_file(path, ArtifactError)
    if path.stat().st_size > _LARGEST:
        raise ArtifactError("is larger than an ONNX file can be (2 GiB)", path=path)
    return read_bytes(path, ArtifactError)


def _require_self_contained(path: Path, model: onnx.ModelProto) -> None:
    for tensor in _model_tensors(model):
        # A location counts even where the tensor claims to be inside: libraries differ in that.
        if tensor.data_location == onnx.TensorProto.EXTERNAL or tensor.external_data:
            raise ArtifactError(
                f"keeps '{tensor.name}' in another file", path=path, hint="export it as one file"
            )


def _model_tensors(model: onnx.ModelProto) -> Iterator[onnx.TensorProto]:
    yield from _graph_tensors(model.graph)
    for training in model.training_info:
        yield from _graph_tensors(training.initialization)
        yield from _graph_tensors(training.algorithm)
    for function in model.functions:
        yield from _node_tensors(function.node)
        yield from _attribute_tensors(function.attribute_proto)


def _graph_tensors(graph: onnx.GraphProto) -> Iterator[onnx.TensorProto]:
    yield from graph.initializer
    for sparse in graph.sparse_initializer:
        yield from (sparse.values, sparse.indices)
    yield from _node_tensors(graph.node)


def _node_tensors(nodes: Iterable[onnx.NodeProto]) -> Iterator[onnx.TensorProto]:
    for node in nodes:
        yield from _attribute_tensors(node.attribute)


def _attribute_tensors(attributes: Iterable[onnx.AttributeProto]) -> Iterator[onnx.TensorProto]:
    for attribute in attributes:
        yield from (attribute.t, *attribute.tensors)
        for sparse in (attribute.sparse_tensor, *attribute.sparse_tensors):
            yield from (sparse.values, sparse.indices)
        for inner in (attribute.g, *attribute.graphs):
            yield from _graph_tensors(inner)
