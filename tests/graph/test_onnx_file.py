from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from quantpipe.errors import ArtifactError
from quantpipe.export.onnx_graph import read_graph
from quantpipe.export.verify import unoptimized
from quantpipe.graph.onnx_file import class_names, input_size, num_detected_classes, read_onnx
from quantpipe.graph.onnx_source import read_onnx_source

Load = Callable[[Path], object]


def _source(path: Path) -> object:
    return read_onnx_source(path, image_size=(32, 32), batch_sizes=(1,))


# Every function that hands what it reads to a library.
READERS = pytest.mark.parametrize("load", [read_onnx, read_graph, unoptimized, _source])


def _model(opset: int = 20) -> onnx.ModelProto:
    weight = onnx.numpy_helper.from_array(np.ones((4, 3, 1, 1), np.float32), "w")
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node("Conv", ["images", "w"], ["predictions"], name="conv")],
        "g",
        [onnx.helper.make_tensor_value_info("images", 1, ["batch", 3, 32, 32])],
        [onnx.helper.make_tensor_value_info("predictions", 1, ["batch", 4, 32, 32])],
        [weight],
    )
    opsets = [onnx.helper.make_opsetid("", opset)]
    return onnx.helper.make_model(graph, opset_imports=opsets, ir_version=10)


def _written(path: Path, model: onnx.ModelProto) -> Path:
    path.write_bytes(model.SerializeToString())
    return path


def _refer(tensor: onnx.TensorProto, **where: str | int) -> None:
    tensor.ClearField("raw_data")
    tensor.data_location = onnx.TensorProto.EXTERNAL
    for key, value in where.items():
        tensor.external_data.add(key=key, value=str(value))


def _as_initializer(model: onnx.ModelProto) -> Any:
    return model.graph.initializer[0]


def _in_a_constant(model: onnx.ModelProto) -> Any:
    node = onnx.helper.make_node("Constant", [], ["c"], value=model.graph.initializer[0])
    model.graph.node.append(node)
    return model.graph.node[-1].attribute[0].t


def _in_a_branch(model: onnx.ModelProto) -> Any:
    inner = onnx.helper.make_graph([], "inner", [], [], [model.graph.initializer[0]])
    node = onnx.helper.make_node("If", ["c"], ["d"], then_branch=inner, else_branch=inner)
    model.graph.node.append(node)
    return next(a.g for a in model.graph.node[-1].attribute if a.name == "else_branch").initializer[
        0
    ]


def _in_a_function(model: onnx.ModelProto) -> Any:
    node = onnx.helper.make_node("Constant", [], ["c"], value=model.graph.initializer[0])
    opsets = [onnx.helper.make_opsetid("", 20)]
    model.functions.append(onnx.helper.make_function("own", "f", [], ["c"], [node], opsets))
    return model.functions[0].node[0].attribute[0].t


def _sparse(model: onnx.ModelProto) -> Any:
    sparse = model.graph.sparse_initializer.add()
    sparse.values.CopyFrom(model.graph.initializer[0])
    return sparse.values


def _of_training(model: onnx.ModelProto) -> Any:
    algorithm = model.training_info.add().algorithm
    algorithm.initializer.append(model.graph.initializer[0])
    return algorithm.initializer[0]


@READERS
@pytest.mark.parametrize(
    "place",
    [_as_initializer, _in_a_constant, _in_a_branch, _in_a_function, _sparse, _of_training],
)
@pytest.mark.parametrize(
    "where",
    [
        {"location": "../secret.bin"},
        {"location": "/etc/hostname"},
        {"location": "hard_link.bin", "length": 48},
        {"location": "inside.bin", "offset": 0, "length": 1 << 62},
        {"location": "not_there.bin"},
    ],
)
def test_data_in_another_file_is_refused_before_a_library_sees_it(
    tmp_path: Path, load: Load, place: Callable[..., Any], where: dict[str, str | int]
) -> None:
    secret = tmp_path / "secret.bin"
    secret.write_bytes(b"\1" * 48)
    folder = tmp_path / "folder"
    folder.mkdir()
    os.link(secret, folder / "hard_link.bin")
    (folder / "inside.bin").write_bytes(b"\2" * 48)
    model = _model()
    _refer(place(model), **where)
    path = _written(folder / "model.onnx", model)
    with pytest.raises(ArtifactError) as caught:
        load(path)
    assert str(caught.value) == f"{path}: keeps 'w' in another file; export it as one file"
    assert caught.value.exit_code == 4


def test_a_location_counts_even_where_the_tensor_claims_to_be_inside(tmp_path: Path) -> None:
    model = _model()
    model.graph.initializer[0].external_data.add(key="location", value="x.bin")
    with pytest.raises(ArtifactError, match="in another file"):
        read_onnx(_written(tmp_path / "model.onnx", model))


@READERS
@pytest.mark.parametrize("content", [b"", b"QPENGINE", b"\0" * 100, b"PK\3\4" + b"x" * 99])
def test_something_else_is_refused_in_one_line(tmp_path: Path, load: Load, content: bytes) -> None:
    path = tmp_path / "x.onnx"
    path.write_bytes(content)
    with pytest.raises(ArtifactError, match=r"x\.onnx: is not a whole ONNX file"):
        load(path)
    for missing, cause in ((tmp_path / "missing.onnx", "no such file"), (tmp_path, "is a folder")):
        with pytest.raises(ArtifactError, match=cause):
            load(missing)


@READERS
def test_a_newer_opset_than_can_be_checked_names_both(tmp_path: Path, load: Load) -> None:
    newest = onnx.defs.onnx_opset_version()
    path = _written(tmp_path / "model.onnx", _model(opset=newest + 1))
    with pytest.raises(ArtifactError) as caught:
        load(path)
    assert str(caught.value) == (
        f"{path}: uses opset {newest + 1}, onnx {onnx.__version__} takes opsets up to {newest}; "
        f"set export.opset={newest} or less, or install a newer onnx"
    )


def test_the_size_is_height_and_width(tmp_path: Path) -> None:
    model = _model()
    assert input_size(tmp_path, model) == (32, 32)
    shape = model.graph.input[0].type.tensor_type.shape
    shape.dim[3].dim_value = 64
    assert input_size(tmp_path, model) == (32, 64)
    shape.dim[2].dim_value = 0
    with pytest.raises(ArtifactError, match=r"\[\[0, 3, 0, 64\]\], not one of \(batch, 3, H, W\)"):
        input_size(tmp_path, model)
    model.graph.ClearField("input")
    with pytest.raises(ArtifactError, match="its inputs are"):
        input_size(tmp_path, model)


def test_classes_are_read_where_detections_are_handed_out(tmp_path: Path) -> None:
    model = _model()
    assert class_names(tmp_path, model) is None
    assert num_detected_classes(tmp_path, model) is None
    del model.graph.output[:]
    for name in ("num_dets", "det_boxes", "det_scores", "det_classes"):
        model.graph.output.add(name=name)
    with pytest.raises(ArtifactError, match="does not name its classes"):
        num_detected_classes(tmp_path, model)
    entry = model.metadata_props.add(key="class_names", value='["a", "b: c"]')
    assert class_names(tmp_path, model) == ("a", "b: c")
    assert num_detected_classes(tmp_path, model) == 2
    for text in ("", "{", "[]", "[1]", '"a"', "null"):
        entry.value = text
        with pytest.raises(ArtifactError, match="not a JSON list of names"):
            class_names(tmp_path, model)
