from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from tests.stages.conftest import Artifacts, Configure, RunStage

from quantpipe.core.artifact import ArtifactKind
from quantpipe.data.dataset import DetectionDataset
from quantpipe.errors import ConfigurationError
from quantpipe.evaluation.accuracy import ImageDetections
from quantpipe.stages.evaluate import STAGE, _agreements, check_wiring

ENGINE, ONNX = ArtifactKind.ENGINE, ArtifactKind.ONNX


def test_a_checkpoint_and_an_engine_are_measured_side_by_side(
    configured: Configure, run_stage: RunStage, exported: Artifacts, calibrated: Artifacts
) -> None:
    built = run_stage("build_engine", configured("build_engine.fp32"), onnx=exported["onnx"])
    made = run_stage(
        "evaluate",
        configured("evaluate", "evaluate.latency_batches=[1,2]"),
        network=calibrated["checkpoint"],
        engine=built["engine"],
        parity_engine=exported["onnx"],
    )
    network, engine = json.loads(made["metrics"].path.read_text())["variants"]
    assert (network["name"], network["engine"], engine["engine"]) == (
        "network",
        "torch",
        "onnxruntime",
    )
    for variant in (network, engine):
        assert 0 <= variant["map"] <= variant["map50"] <= 1
        assert set(variant["latency"]) == {"1", "2"}
        assert all(0 < t["p50"] <= t["p95"] <= t["p99"] for t in variant["latency"].values())
    assert network["map"] == pytest.approx(engine["map"], abs=0.02)
    assert network["parity"] is None
    assert engine["parity"]["max_abs"] < 0.05
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


def test_the_inputs_must_fit_together() -> None:
    check_wiring(None, {"a": ENGINE, "b": ArtifactKind.CHECKPOINT, "parity_a": ONNX})
    for kinds, line in (
        ({"a": ONNX}, "a: is wired to a onnx, not to a checkpoint or engine"),
        ({"a": ENGINE, "parity_a": ENGINE}, "parity_a: is wired to a engine, not to a onnx"),
        (
            {"half": ENGINE, "parity_hal": ONNX},
            "parity_hal: there is no variant 'hal'; did you mean 'half'?",
        ),
    ):
        with pytest.raises(ConfigurationError) as caught:
            check_wiring(None, kinds)
        assert str(caught.value) == line


def test_latencies_of_another_processor_are_another_result(
    configured: Configure, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = configured("evaluate")
    here = STAGE.content(config, tmp_path)
    monkeypatch.setattr("quantpipe.engines.hardware.processor", lambda: "another")
    assert STAGE.content(config, tmp_path) != here


def test_nothing_but_what_can_be_measured_is_taken() -> None:
    assert STAGE.any_inputs is not None
    assert ArtifactKind.SCALES not in STAGE.any_inputs.kinds
