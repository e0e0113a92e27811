from __future__ import annotations

import json
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from tests.stages.conftest import Artifacts, Configure, RunStage

from quantpipe.core.artifact import Artifact
from quantpipe.detector.checkpoint_family import restore_detector
from quantpipe.detector.checkpoint_file import load_checkpoint
from quantpipe.engines.registry import load_engine
from quantpipe.engines.tensorrt.version import tensorrt_version
from quantpipe.errors import ArtifactError, ConfigurationError
from quantpipe.evaluation.postprocess import detections
from quantpipe.quantization.model_files import CALIBRATION_CACHE
from quantpipe.stages.export import STAGE
from quantpipe.stages.export import suppression as detecting_graph


def test_the_float_graph_computes_what_the_network_does(
    exported: Artifacts, calibrated: Artifacts
) -> None:
    assert set(exported) == {"graph"}
    network = restore_detector(load_checkpoint(calibrated["model"].path))
    images = np.random.default_rng(4).random((3, 3, 64, 64), dtype=np.float32)
    session = onnxruntime.InferenceSession(
        exported["graph"].path, providers=["CPUExecutionProvider"]
    )
    (found,) = session.run(None, {"images": images})
    with torch.no_grad():
        expected = network(torch.from_numpy(images)).numpy()
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-2)


def test_a_quantized_graph_holds_its_ranges_itself(
    configured: Configure, run_stage: RunStage, calibrated: Artifacts
) -> None:
    config = configured("export.ptq", "export.target=tensorrt", "export.verify_images=1")
    made = run_stage("export", config, **calibrated)
    nodes = [node.op_type for node in onnx.load(made["graph"].path).graph.node]
    assert nodes.count("QuantizeLinear") > 40
    assert nodes.count("DequantizeLinear") >= nodes.count("QuantizeLinear")
    assert made["graph"].file(CALIBRATION_CACHE) is None


def test_ranges_beside_a_float_graph_are_for_tensorrt_up_to_10(
    configured: Configure,
    run_stage: RunStage,
    calibrated: Artifacts,
    exported: Artifacts,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    config = replace(
        configured("export.ptq", "export.verify_images=1"),
        target="tensorrt",
        ranges="calibration_cache",
    )
    STAGE.check(config)
    graph = run_stage("export", config, **calibrated)["graph"]
    nodes = [node.op_type for node in onnx.load(graph.path).graph.node]
    assert "QuantizeLinear" not in nodes
    cache = (graph.folder / CALIBRATION_CACHE).read_text()
    assert cache.startswith("TRT-8601-EntropyCalibration2\n")
    with pytest.raises(ConfigurationError, match=r"^ranges: .*up to 10, not by onnxruntime"):
        STAGE.check(replace(config, target="onnxruntime"))
    newer = tensorrt_version("11.4.0.106")
    monkeypatch.setattr("quantpipe.engines.tensorrt.spec.installed_tensorrt", lambda: newer)
    with pytest.raises(ConfigurationError, match=r"^ranges: TensorRT 11\.4 .*pipelines=ptq"):
        STAGE.check(config)
    STAGE.check(replace(config, quantized=False))  # a float variant has no ranges to place


def test_a_float_model_has_nothing_to_quantize(
    configured: Configure, run_stage: RunStage, float_model: Artifact
) -> None:
    with pytest.raises(ArtifactError, match="is a float model without ranges; take one of calib"):
        run_stage("export", configured("export.ptq"), model=float_model)


def test_scales_of_other_weights_are_refused(
    configured: Configure,
    run_stage: RunStage,
    misfit: Artifact,
) -> None:
    with pytest.raises(ArtifactError, match="these scales belong to weights"):
        run_stage("export", configured("export.ptq"), model=misfit)


def test_half_needs_scales_in_half(configured: Configure) -> None:
    with pytest.raises(ConfigurationError, match=r"opset: 18 has no FP16 scales; give 19 or more"):
        configured("export.fp32", "export.half=true", "export.opset=18")


def test_half_needs_an_engine_that_parses_scales_in_half(
    configured: Configure, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = tensorrt_version("8.6.1")
    monkeypatch.setattr("quantpipe.engines.tensorrt.spec.installed_tensorrt", lambda: old)
    config = configured("export.fp32", "export.target=tensorrt")
    STAGE.check(config)
    with pytest.raises(ConfigurationError, match="opset: 17 has no FP16 scales"):
        STAGE.check(replace(config, half=True))
    with pytest.raises(ConfigurationError, match=r"TensorRT 8\.6 parses ONNX up to opset 17"):
        STAGE.check(replace(config, opset=20))


def test_the_libraries_that_write_the_graph_are_in_the_key(
    configured: Configure, tmp_path: Path
) -> None:
    found = STAGE.content(configured("export.fp32"), tmp_path)
    assert found["libraries"]["torch"] == version("torch")
    assert set(found) == {"data", "libraries", "opset"}


def test_what_was_trained_is_folded_and_gives_the_same_graph(
    configured: Configure, run_stage: RunStage, float_model: Artifact, exported: Artifacts
) -> None:
    """With biases corrected in the scales alone, the float network is the trained one."""
    made = run_stage("export", configured("export.fp32"), model=float_model)
    assert made["graph"].digests == exported["graph"].digests


LOW = "export.suppression.confidence=0.001"


def test_a_graph_that_suppresses_gives_an_engine_of_the_same_detections(
    configured: Configure, run_stage: RunStage, calibrated: Artifacts
) -> None:
    build = configured("build_engine.ptq")
    images = np.random.default_rng(4).random((2, 3, 64, 64), dtype=np.float32)
    found = {}
    for nms in ("none", "onnx"):
        config = configured("export.ptq", f"export.nms={nms}", LOW)
        made = run_stage("export", config, **calibrated)
        engine = load_engine("onnxruntime", run_stage("build_engine", build, **made)["engine"].path)
        found[nms] = engine.run(images)
        found[nms][..., 2:4] = np.maximum(found[nms][..., 2:4], 0)  # what an untrained one predicts
        engine.close()
    assert found["onnx"].shape == (2, 100, 5 + 2)
    expected, actual = (
        detections(rows, confidence=0.001, iou=0.65, max_detections=100) for rows in found.values()
    )
    assert min(len(rows) for rows in expected) > 3
    for before, after in zip(expected, actual, strict=True):
        np.testing.assert_allclose(after, before, rtol=1e-3, atol=1e-2)


def test_the_file_names_its_outputs_and_classes(
    configured: Configure, run_stage: RunStage, calibrated: Artifacts
) -> None:
    overrides = ("export.target=tensorrt", "export.nms=tensorrt", LOW, "export.verify_images=1")
    made = run_stage("export", configured("export.ptq", *overrides), **calibrated)
    model = onnx.load(made["graph"].path)
    assert [o.name for o in model.graph.output] == [
        "num_dets",
        "det_boxes",
        "det_scores",
        "det_classes",
    ]
    names = load_checkpoint(calibrated["model"].path).class_names
    assert json.loads(model.metadata_props[0].value) == list(names)
    assert [n.op_type for n in model.graph.node if n.domain == "TRT"] == ["EfficientNMS_TRT"]


def test_suppression_that_keeps_others_is_not_published(
    configured: Configure,
    run_stage: RunStage,
    calibrated: Artifacts,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(
        detecting_graph, "detections", lambda rows, **how: detections(rows, **{**how, "iou": 0.1})
    )
    config = configured("export.fp32", "export.nms=onnx", LOW)
    with pytest.raises(ArtifactError, match="are others"):
        run_stage("export", config, model=calibrated["model"])


def test_more_detections_than_tensorrt_packs_are_refused(configured: Configure) -> None:
    with pytest.raises(ConfigurationError) as caught:
        configured("export.fp32", "export.suppression.max_detections=3841")
    assert str(caught.value).startswith(
        "export.suppression.max_detections: 3841 is not between 1 and 3840"
    )


def test_the_plugin_needs_tensorrt(configured: Configure) -> None:
    with pytest.raises(ConfigurationError) as caught:
        configured("export.fp32", "export.nms=tensorrt")
    assert str(caught.value) == (
        "export.nms: onnxruntime does not run TensorRT's plugin; give nms=onnx, or engine=tensorrt"
    )
