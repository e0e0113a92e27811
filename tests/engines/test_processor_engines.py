"""OpenVINO and ONNX Runtime against the ONNX reference implementation."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from quantpipe.engines.engine_file import read_engine_file, write_engine_file
from quantpipe.engines.profile import operation_times
from quantpipe.engines.registry import ENGINES, build_engine, load_engine
from quantpipe.errors import ArtifactError, MachineError
from quantpipe.evaluation.postprocess import detections
from quantpipe.export.nms import append_nms
from quantpipe.graph.operations import operation_aliases
from quantpipe.graph.suppression import Suppression

BOTH = pytest.mark.parametrize("name", ["openvino", "onnxruntime"])


def _built(tiny: Any, name: str, onnx_path: Any, **changes: Any) -> Any:
    path = onnx_path.with_suffix(f".{name}.engine")
    build_engine(onnx_path, path, tiny.settings(name, **changes))
    return path


@BOTH
@pytest.mark.parametrize("num_images", [1, 3, 4, 6])
def test_any_number_of_images_gives_the_references_predictions(
    tiny: Any, name: str, float_onnx: Path, num_images: int
) -> None:
    engine = load_engine(name, _built(tiny, name, float_onnx))
    images = tiny.images(num_images)
    np.testing.assert_allclose(
        engine.run(images), tiny.reference(tiny.model(), images), rtol=1e-4, atol=1e-4
    )
    engine.close()


@BOTH
def test_height_and_width_need_not_be_equal(tiny: Any, name: str, tmp_path: Path) -> None:
    size = (20, 52)
    model = tiny.model(image_size=size)
    onnx.save(model, tmp_path / "wide.onnx")
    engine = load_engine(name, _built(tiny, name, tmp_path / "wide.onnx", image_size=size))
    images = tiny.images(5, size)
    np.testing.assert_allclose(
        engine.run(images), tiny.reference(model, images), rtol=1e-4, atol=1e-4
    )
    assert engine.profile(images[:4], 1)
    with pytest.raises(ArtifactError, match=r"3, 20, 52\], not \(batch, 3, 52, 20\)"):
        _built(tiny, name, tmp_path / "wide.onnx", image_size=size[::-1])


@BOTH
@pytest.mark.parametrize("mode", ["latency", "throughput"])
def test_batches_that_run_at_once_keep_their_places(
    tiny: Any, name: str, mode: str, float_onnx: Path
) -> None:
    path = _built(tiny, name, float_onnx, mode=mode, num_threads=2, num_streams=2)
    engine = load_engine(name, path)
    batches = [tiny.images(count) * np.float32(1 / (count + 1)) for count in (1, 4, 6, 1, 3, 4, 2)]
    found = engine.run_all(batches)
    assert len(found) == len(batches)
    for images, predictions in zip(batches, found, strict=True):
        expected = tiny.reference(tiny.model(), images)
        np.testing.assert_allclose(predictions, expected, rtol=1e-4, atol=1e-4)
    assert engine.run_all([]) == []
    engine.close()


@BOTH
def test_a_result_is_the_callers_own(tiny: Any, name: str, float_onnx: Path) -> None:
    engine = load_engine(name, _built(tiny, name, float_onnx))
    first = engine.run(tiny.images(1))
    kept = first.copy()
    engine.run(tiny.images(1) * np.float32(0.1))
    np.testing.assert_array_equal(first, kept)


@BOTH
def test_int8_computes_what_the_pairs_say(tiny: Any, name: str, int8_onnx: Path) -> None:
    engine = load_engine(name, _built(tiny, name, int8_onnx, precision="int8"))
    images = tiny.images(5)
    expected = tiny.reference(tiny.model(quantized=True), images)
    float_error = np.abs(expected - tiny.reference(tiny.model(), images)).mean()
    assert np.abs(engine.run(images) - expected).mean() < 0.1 * float_error


@BOTH
def test_an_engine_from_elsewhere_names_both_values(tiny: Any, name: str, float_onnx: Path) -> None:
    path = _built(tiny, name, float_onnx)
    engine = read_engine_file(path, ENGINES[name])
    elsewhere = dataclasses.replace(engine.header.platform, library=f"{name} 0.0.1")
    forged = dataclasses.replace(engine.header, platform=elsewhere)
    write_engine_file(path, dataclasses.replace(engine, header=forged))
    with pytest.raises(MachineError, match=rf"{name} 0\.0\.1"):
        load_engine(name, path)


@BOTH
def test_a_blob_the_library_refuses_is_a_machine_error(
    tiny: Any, name: str, float_onnx: Path
) -> None:
    path = _built(tiny, name, float_onnx)
    engine = read_engine_file(path, ENGINES[name])
    blobs = dict.fromkeys(engine.blobs, b"nonsense" * 10)
    write_engine_file(path, dataclasses.replace(engine, blobs=blobs))
    with pytest.raises(MachineError, match="cannot load"):
        load_engine(name, path)


@BOTH
def test_a_model_the_library_refuses_is_an_artifact_error(
    tiny: Any, name: str, float_onnx: Path
) -> None:
    model = tiny.model()
    model.graph.node[0].op_type = "NoSuchOperator"
    float_onnx.write_bytes(model.SerializeToString())
    with pytest.raises(ArtifactError):
        _built(tiny, name, float_onnx)


@BOTH
def test_an_opset_that_nobody_here_knows_is_refused(tiny: Any, name: str, float_onnx: Path) -> None:
    """OpenVINO would take it in silence."""
    newest = onnx.defs.onnx_opset_version()
    model = tiny.model()
    model.opset_import[0].version = newest + 1
    float_onnx.write_bytes(model.SerializeToString())
    with pytest.raises(
        ArtifactError, match=rf"uses opset {newest + 1}, .* up to {newest}; set exp"
    ):
        _built(tiny, name, float_onnx)


@BOTH
def test_two_engines_live_side_by_side(
    tiny: Any, name: str, float_onnx: Path, int8_onnx: Path
) -> None:
    one = load_engine(name, _built(tiny, name, float_onnx))
    two = load_engine(name, _built(tiny, name, int8_onnx, precision="int8"))
    images = tiny.images(1)
    before = one.run(images)
    two.run(images)
    two.close()
    np.testing.assert_array_equal(one.run(images), before)


@BOTH
@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_a_profile_lists_each_layer_once_and_leaves_the_engine_as_it_is(
    tiny: Any, name: str, precision: str, float_onnx: Path, int8_onnx: Path
) -> None:
    source = int8_onnx if precision == "int8" else float_onnx
    engine = load_engine(name, _built(tiny, name, source, precision=precision))
    images = tiny.images(4)
    before = engine.run(images)
    layers = engine.profile(images, 5)
    times = operation_times(layers, operation_aliases(tiny.model()))
    assert set(times.milliseconds) == {"stem", "head"}
    assert all(time > 0 for time in times.milliseconds.values())
    total = sum(times.milliseconds.values()) + times.elsewhere
    assert total == pytest.approx(sum(layer.milliseconds for layer in layers))
    assert sorted(layer.name for layer in engine.profile(images, 1)) == sorted(
        layer.name for layer in layers
    )
    np.testing.assert_array_equal(engine.run(images), before)


@pytest.fixture
def detecting(tiny: Any, tmp_path: Path) -> Any:
    """``detecting(confidence)``: a network of overlapping boxes, the same with suppression."""

    def make(confidence: float, *, quantized: bool = False) -> Any:
        model = tiny.model(quantized=quantized)
        (bias,) = (t for t in model.graph.initializer if t.name == "head.bias")
        shifted = onnx.numpy_helper.to_array(bias) + np.array([0, 0, 6, 5, 5, 4], dtype=np.float32)
        bias.CopyFrom(onnx.numpy_helper.from_array(shifted, bias.name))
        chosen: dict[str, Any] = {"confidence": confidence, "iou": 0.6, "max_detections": 40}
        path = tmp_path / "detecting.onnx"
        path.write_bytes(
            append_nms(model, Suppression(**chosen), ["it"], "onnx").SerializeToString()
        )
        return model, path, chosen

    return make


@BOTH
@pytest.mark.parametrize("quantized", [False, True])
@pytest.mark.parametrize("num_images", [1, 5])
def test_detections_come_as_predictions_that_suppress_to_themselves(
    tiny: Any, detecting: Any, name: str, quantized: bool, num_images: int
) -> None:
    model, path, chosen = detecting(2.0, quantized=quantized)
    images = tiny.images(num_images)
    precision = "int8" if quantized else "fp32"
    engine = load_engine(name, _built(tiny, name, path, precision=precision))
    plain = load_engine(name, _built(tiny, name, _saved(path, model), precision=precision))
    found = engine.run(images)
    assert found.shape == (num_images, 40, 6)
    expected = detections(plain.run(images), **chosen)
    assert [3 < len(rows) < 40 for rows in expected] == [True] * num_images
    for image, rows in enumerate(expected):
        again = detections(found[image : image + 1], **chosen)[0]
        np.testing.assert_allclose(again, rows, rtol=1e-4, atol=1e-4)
        assert not found[image, len(rows) :].any()
    assert "NonMaxSuppression" in {layer.kind for layer in engine.layers()}
    assert len(engine.profile(images[:1], 1)) > len(plain.profile(images[:1], 1))


def _saved(path: Path, model: onnx.ModelProto) -> Path:
    plain = path.with_name("plain.onnx")
    plain.write_bytes(model.SerializeToString())
    return plain


@BOTH
@pytest.mark.parametrize("mode", ["latency", "throughput"])
def test_many_batches_of_detections_are_those_of_each(
    tiny: Any, detecting: Any, name: str, mode: str
) -> None:
    _, path, _ = detecting(2.0)
    engine = load_engine(name, _built(tiny, name, path, mode=mode))
    batches = [tiny.images(count) + np.float32(0.1 * count) for count in (1, 4, 6)]
    found = engine.run_all(batches)
    assert [rows.shape for rows in found] == [(1, 40, 6), (4, 40, 6), (6, 40, 6)]
    for images, rows in zip(batches, found, strict=True):
        assert rows.any(axis=(1, 2)).all()
        np.testing.assert_allclose(rows, engine.run(images), rtol=1e-4, atol=1e-4)


@BOTH
def test_images_without_detections_give_rows_of_zeros(tiny: Any, detecting: Any, name: str) -> None:
    _, path, _ = detecting(1e6)
    found = load_engine(name, _built(tiny, name, path)).run(tiny.images(3))
    assert found.shape == (3, 40, 6)
    assert not found.any()
