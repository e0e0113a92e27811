from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from tests.stages.conftest import Artifacts, Configure, RunStage, artifact_at

from quantpipe.core.artifact import Artifact
from quantpipe.data.dataset import DetectionDataset
from quantpipe.errors import ArtifactError
from quantpipe.evaluation.image_detections import ImageDetections
from quantpipe.stages.artifacts import ENGINE, GRAPH, MODEL
from quantpipe.stages.evaluate import STAGE
from quantpipe.stages.evaluate.run import _agreements


def test_a_model_and_an_engine_are_measured_side_by_side(
    configured: Configure, run_stage: RunStage, exported: Artifacts, float_model: Artifact
) -> None:
    built = run_stage("build_engine", configured("build_engine.fp32"), graph=exported["graph"])
    made = run_stage(
        "evaluate",
        configured("evaluate", "evaluate.latency_batches=[1,2]"),
        **{"variants.network": float_model, "variants.engine": built["engine"]},
    )
    network, engine = json.loads(made["metrics"].path.read_text())["variants"]
    assert (network["name"], network["engine"], engine["engine"]) == (
        "network",
        "torch",
        "onnxruntime",
    )
    for variant in (network, engine):
        assert 0 <= variant["map"] <= variant["map50"] <= 1
        assert set(variant["latency_ms"]) == set(variant["fps"]) == {"b1", "b2"}
        assert all(0 < t["p50"] <= t["p95"] <= t["p99"] for t in variant["latency_ms"].values())
    assert network["map"] == pytest.approx(engine["map"], abs=0.02)
    assert network["parity"] is None
    assert engine["parity"]["reference"] == "float"
    assert engine["parity"]["max_abs"] < 0.05
    assert engine["parity"]["map_delta"] == pytest.approx(0, abs=0.02)
    median = engine["latency_ms"]["b2"]["p50"]
    assert engine["fps"]["b2"] == pytest.approx(2 * 1000 / median)
    assert engine["fallbacks"] == []
    (example,) = json.loads(made["examples"].path.read_text())["images"]
    assert set(example["pictures"]) == {"network", "engine"}


def found(score: float, *, shift: float = 0) -> list[ImageDetections]:
    boxes = np.array([[10 + shift, 10, 30 + shift, 40]], dtype=np.float32)
    scores, labels = np.array([score], dtype=np.float32), np.array([0])
    return [ImageDetections(image_id=1, boxes=boxes, scores=scores, labels=labels)]


def test_agreement_is_with_what_the_float_variant_is_confident_of(tmp_path: Path) -> None:
    """A box 2 of 20 pixels aside overlaps 0.818: it passes the IoU thresholds 0.50 to 0.80."""
    dataset = DetectionDataset(
        name="x", root=tmp_path, images=(), class_names=("a",), category_ids=(1,), counts={}
    )
    detections = {"fp32": found(0.9), "ptq": found(0.2, shift=2)}
    assert _agreements(detections, dataset) == pytest.approx({"fp32": 1.0, "ptq": 0.7})
    unsure = {"fp32": found(0.1), "ptq": found(0.1)}
    assert _agreements(unsure, dataset) == {}
    assert _agreements({"ptq": found(0.9)}, dataset) == {}


def test_a_calibrated_model_is_measured_as_it_is_simulated(
    configured: Configure, run_stage: RunStage, calibrated: Artifacts, float_model: Artifact
) -> None:
    made = run_stage(
        "evaluate",
        configured("evaluate", "evaluate.latency_batches=[1]"),
        **{"variants.fp32": float_model, "variants.simulated": calibrated["model"]},
    )
    floats, simulated = json.loads(made["metrics"].path.read_text())["variants"]
    assert (floats["precision"], simulated["precision"]) == ("fp32", "int8")
    assert (simulated["engine"], simulated["parity"]) == ("torch", None)


def test_latencies_of_another_processor_are_another_result(
    configured: Configure, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = configured("evaluate")
    here = STAGE.content(config, tmp_path)
    monkeypatch.setattr("quantpipe.engines.hardware.processor", lambda: "another")
    assert STAGE.content(config, tmp_path) != here


def test_nothing_but_what_can_be_measured_is_taken() -> None:
    assert STAGE.inputs["variants"].kinds == {ENGINE, MODEL}


def test_an_engine_in_throughput_mode_is_measured_with_several_batches_at_once(
    configured: Configure, run_stage: RunStage, exported: Artifacts
) -> None:
    build = configured("build_engine.fp32", "engine.mode=throughput")
    built = run_stage("build_engine", build, graph=exported["graph"])
    config = configured("evaluate", "evaluate.latency_batches=[1,2]", "evaluate.num_queued=3")
    made = run_stage("evaluate", config, **{"variants.engine": built["engine"]})
    (variant,) = json.loads(made["metrics"].path.read_text())["variants"]
    assert set(variant["fps"]) == {"b1", "b2"}
    for batch, rate in variant["fps"].items():
        alone = 1000 * int(batch[1:]) / variant["latency_ms"][batch]["p50"]
        assert rate > 0
        assert rate != alone


@pytest.fixture(scope="module")
def quantized(configured: Configure, run_stage: RunStage, calibrated: Artifacts) -> Artifacts:
    """The graph with Q/DQ."""
    config = configured("export.ptq", "export.opset=20")
    return run_stage("export", config, model=calibrated["model"])


def with_wrong_scale(graph: Artifact, folder: Path, index: int) -> tuple[Artifact, str]:
    """The graph with the input of one convolution on a grid 40 times as coarse."""
    model = onnx.load(graph.path)
    makers = {node.output[0]: node for node in model.graph.node}
    convolutions = [node for node in model.graph.node if node.op_type == "Conv"]
    wrong = convolutions[index]
    dequantize = makers[wrong.input[0]]
    scale = next(item for item in model.graph.initializer if item.name == dequantize.input[1])
    own = onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(scale) * 40, "wrong.scale")
    model.graph.initializer.append(own)
    for node in (dequantize, makers[dequantize.input[0]]):
        node.input[1] = "wrong.scale"
    onnx.save(model, folder / "model.onnx")
    readers = [node.name for node in model.graph.node if dequantize.output[0] in node.input]
    return artifact_at(folder, GRAPH, graph.sources), " ".join(readers)


def test_an_engine_is_compared_with_its_fake_quantized_network(
    configured: Configure, run_stage: RunStage, quantized: Artifacts, calibrated: Artifacts
) -> None:
    built = run_stage("build_engine", configured("build_engine.ptq"), graph=quantized["graph"])
    made = run_stage(
        "evaluate",
        configured("evaluate", "evaluate.latency_batches=[1]"),
        **{"variants.ptq": built["engine"]},
    )
    (variant,) = json.loads(made["metrics"].path.read_text())["variants"]
    assert variant["parity"]["reference"] == "fake-quantized"
    assert variant["parity"]["num_images"] == 2
    assert 0 < variant["parity"]["box_mean_abs"] <= variant["parity"]["box_max_abs"]
    reasons = {fallback["reason"] for fallback in variant["fallbacks"]}
    assert "ONNX Runtime has no integer ConvTranspose" in reasons
    assert len(variant["fallbacks"]) == variant["float_layers"]


@pytest.mark.parametrize("index", [0, 1, -12])
def test_an_engine_that_computes_something_else_names_the_first_operation(
    index: int,
    configured: Configure,
    run_stage: RunStage,
    quantized: Artifacts,
    calibrated: Artifacts,
    tmp_path: Path,
) -> None:
    wrong, readers = with_wrong_scale(quantized["graph"], tmp_path, index)
    built = run_stage("build_engine", configured("build_engine.ptq"), graph=wrong)
    # Random weights pass on little of what one convolution computes: a strict limit.
    strict = (
        "evaluate.latency_batches=[1]",
        "evaluate.parity.int8_limit=1.2",
        "evaluate.parity.fp32.box_mean_abs=1e-4",
        "evaluate.parity.fp32.score_mean_abs=1e-4",
    )
    with pytest.raises(ArtifactError, match="engine 'ptq' does not compute its fake") as caught:
        run_stage(
            "evaluate",
            configured("evaluate", *strict),
            **{"variants.ptq": built["engine"]},
        )
    assert str(caught.value).split("part at '")[1].split("'")[0] in readers.split()
