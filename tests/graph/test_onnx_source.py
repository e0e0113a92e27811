from __future__ import annotations

from pathlib import Path
from typing import Any

import onnx
import pytest

from quantpipe.errors import ArtifactError
from quantpipe.export.nms import append_nms
from quantpipe.graph.onnx_source import OnnxSource, read_onnx_source
from quantpipe.graph.suppression import Suppression


def _read(path: Path, batch_sizes: tuple[int, ...] = (1, 4), side: int = 32) -> OnnxSource:
    return read_onnx_source(path, image_size=(side, side), batch_sizes=batch_sizes)


def test_a_dynamic_model_is_read_with_its_digest(float_onnx: Path) -> None:
    import hashlib

    source = _read(float_onnx)
    assert source.sha256 == hashlib.sha256(float_onnx.read_bytes()).hexdigest()
    assert source.input_name == "images"
    assert source.batch is None
    assert (source.num_classes, source.opset) == (None, 19)


def test_external_data_is_never_followed(tiny: Any, tmp_path: Path) -> None:
    canary = tmp_path / "secret.bin"
    canary.write_bytes(bytes(10_000))
    model = tiny.model()
    tensor = model.graph.initializer[0]
    onnx.external_data_helper.set_external_data(tensor, location="../secret.bin")
    tensor.ClearField("raw_data")
    path = tmp_path / "model.onnx"
    path.write_bytes(model.SerializeToString())
    with pytest.raises(ArtifactError, match="another file"):
        _read(path)


def test_external_data_inside_a_constant_node_is_found_too(tiny: Any, tmp_path: Path) -> None:
    model = tiny.model()
    tensor = onnx.TensorProto()
    tensor.CopyFrom(model.graph.initializer[0])
    onnx.external_data_helper.set_external_data(tensor, location="x.bin", length=1 << 60)
    model.graph.node.insert(0, onnx.helper.make_node("Constant", [], ["k"], value=tensor))
    (tmp_path / "model.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(ArtifactError, match="another file"):
        _read(tmp_path / "model.onnx")


@pytest.mark.parametrize("content", [b"", b"not onnx at all", b"\x00" * 100])
def test_something_else_is_refused(tmp_path: Path, content: Any) -> None:
    (tmp_path / "x.onnx").write_bytes(content)
    with pytest.raises(ArtifactError):
        _read(tmp_path / "x.onnx")
    with pytest.raises(ArtifactError, match="no such file"):
        _read(tmp_path / "missing.onnx")


def test_another_image_size_is_refused(float_onnx: Path) -> None:
    with pytest.raises(ArtifactError, match=r"\(batch, 3, 64, 64\)"):
        _read(float_onnx, side=64)


def test_a_fixed_batch_takes_no_other(tiny: Any, tmp_path: Path) -> None:
    path = tmp_path / "fixed.onnx"
    path.write_bytes(tiny.model(batch=4).SerializeToString())
    assert _read(path, batch_sizes=(4,)).batch == 4
    with pytest.raises(ArtifactError, match="dynamic batch"):
        _read(path, batch_sizes=(1, 4))


def test_detections_are_told_from_predictions(tiny: Any, tmp_path: Path) -> None:
    path = tmp_path / "nms.onnx"
    settings = Suppression(confidence=0.1, iou=0.5, max_detections=9)
    model = append_nms(tiny.model(), settings, ["it"], "onnx")
    path.write_bytes(model.SerializeToString())
    source = _read(path)
    assert (source.num_classes, source.opset) == (1, 19)
    del model.metadata_props[:]
    path.write_bytes(model.SerializeToString())
    with pytest.raises(ArtifactError, match="does not name its classes"):
        _read(path)
    del model.graph.output[2:]
    path.write_bytes(model.SerializeToString())
    with pytest.raises(ArtifactError, match="2 outputs, one of each is needed, or as outputs num_"):
        _read(path)
