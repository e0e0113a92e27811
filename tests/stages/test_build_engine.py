from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from tests.stages.conftest import Artifacts, Configure, RunStage

from quantpipe.detector.checkpoint import load_checkpoint, restore_detector
from quantpipe.engines.engine import load_engine
from quantpipe.errors import ConfigurationError, MachineError
from quantpipe.settings import engine as engine_settings
from quantpipe.stages.build_engine import STAGE


def test_the_engine_computes_what_the_network_does(
    configured: Configure, run_stage: RunStage, exported: Artifacts, calibrated: Artifacts
) -> None:
    made = run_stage("build_engine", configured("build_engine.fp32"), onnx=exported["onnx"])
    engine = load_engine("onnxruntime", made["engine"].path)
    network = restore_detector(load_checkpoint(calibrated["checkpoint"].path))
    images = np.random.default_rng(4).random((2, 3, 64, 64), dtype=np.float32)
    try:
        found = engine.run(images)
    finally:
        engine.close()
    with torch.no_grad():
        expected = network(torch.from_numpy(images)).numpy()
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-2)


def test_a_precision_without_kernels_is_refused(configured: Configure) -> None:
    config = configured("build_engine.fp32", "build_engine.each.fp32.precision=f32")
    STAGE.check(config)
    with pytest.raises(ConfigurationError, match="has no 'half' kernels"):
        configured("build_engine.fp32", "build_engine.each.fp32.precision=half")


def test_a_missing_library_is_found_before_any_work(
    configured: Configure, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = configured("build_engine.fp32")
    monkeypatch.setattr(engine_settings, "availability", lambda name: "pip install it")
    with pytest.raises(MachineError, match="pip install it"):
        STAGE.check(config)


def test_an_engine_is_tied_to_its_library_and_hardware(
    configured: Configure, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = configured("build_engine.fp32")
    here = STAGE.content(config, tmp_path)
    monkeypatch.setattr(engine_settings, "identity", lambda name: {"version": "0", "hardware": "x"})
    assert STAGE.content(config, tmp_path) != here
