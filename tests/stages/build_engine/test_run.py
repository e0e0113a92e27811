from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.engines.fake_cuda import FakeCuda
from tests.engines.fake_tensorrt import FakeTensorRt, put_in_place
from tests.stages.conftest import Artifacts, Configure, RunStage, artifact_at

from quantpipe.core.artifact import Artifact
from quantpipe.detector.checkpoint_family import restore_detector
from quantpipe.detector.checkpoint_file import load_checkpoint
from quantpipe.engines.contract import Platform
from quantpipe.engines.registry import load_engine
from quantpipe.engines.tensorrt.spec import TensorRtSettings
from quantpipe.engines.tensorrt.version import tensorrt_version
from quantpipe.errors import ArtifactError, ConfigurationError, MachineError
from quantpipe.quantization.model_files import CALIBRATION_CACHE
from quantpipe.settings import engine as engine_settings
from quantpipe.stages.artifacts import GRAPH, HALF_GRAPH
from quantpipe.stages.build_engine import STAGE


def test_the_engine_computes_what_the_network_does(
    configured: Configure, run_stage: RunStage, exported: Artifacts, calibrated: Artifacts
) -> None:
    made = run_stage("build_engine", configured("build_engine.fp32"), graph=exported["graph"])
    engine = load_engine("onnxruntime", made["engine"].path)
    network = restore_detector(load_checkpoint(calibrated["model"].path))
    images = np.random.default_rng(4).random((2, 3, 64, 64), dtype=np.float32)
    try:
        found = engine.run(images)
    finally:
        engine.close()
    with torch.no_grad():
        expected = network(torch.from_numpy(images)).numpy()
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-2)


def test_a_precision_without_kernels_is_refused(configured: Configure) -> None:
    STAGE.check(configured("build_engine.fp32"))
    with pytest.raises(ConfigurationError, match="has no 'half' kernels"):
        configured("build_engine.fp32", "variants.fp32.precision=half")


def test_a_missing_library_is_found_before_any_work(
    configured: Configure, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = configured("build_engine.fp32")
    monkeypatch.setattr(engine_settings, "availability", lambda name, **how: "pip install it")
    with pytest.raises(MachineError, match="pip install it"):
        STAGE.check(config)


def test_an_engine_is_tied_to_its_library_and_hardware(
    configured: Configure, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = configured("build_engine.fp32")
    here = STAGE.content(config, tmp_path)
    elsewhere = Platform(library="0", hardware="x")
    monkeypatch.setattr(engine_settings, "platform_here", lambda name: elsewhere)
    assert STAGE.content(config, tmp_path) != here


def tensorrt(configured: Configure, **changes: Any) -> Any:
    config = configured("build_engine.ptq")
    engine = TensorRtSettings(
        name="tensorrt",
        batch_sizes=config.engine.batch_sizes,
        float_precision="half",
        mode="latency",
        workspace_mib=64,
        optimization_level=3,
    )
    return replace(config, engine=engine, **changes)


@pytest.fixture(params=["10.16.1.11"])
def installed(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> FakeTensorRt:
    """TensorRT and a GPU, as far as stand-ins can be."""
    trt = FakeTensorRt(request.param, FakeCuda())
    put_in_place(trt, monkeypatch)
    version = tensorrt_version(request.param)
    monkeypatch.setattr("quantpipe.engines.tensorrt.spec.installed_tensorrt", lambda: version)
    return trt


@pytest.fixture(scope="session")
def for_tensorrt(configured: Configure, run_stage: RunStage, calibrated: Artifacts) -> Artifacts:
    """The graph with Q/DQ in TensorRT's placement."""
    overrides = ("export.target=tensorrt", "export.verify_images=1", "export.opset=20")
    return run_stage("export", configured("export.ptq", *overrides), **calibrated)


@pytest.fixture(scope="session")
def float_with_cache(
    configured: Configure, run_stage: RunStage, calibrated: Artifacts
) -> Artifacts:
    """The float graph, and the ranges beside it."""
    config = configured("export.ptq", "export.verify_images=1", "export.opset=20")
    config = replace(config, target="tensorrt", ranges="calibration_cache")
    return run_stage("export", config, **calibrated)


def test_a_float_graph_and_a_calibration_cache_make_an_int8_engine_of_tensorrt_10(
    configured: Configure,
    run_stage: RunStage,
    installed: FakeTensorRt,
    float_with_cache: Artifacts,
) -> None:
    graph = float_with_cache["graph"]
    built = run_stage("build_engine", tensorrt(configured), graph=graph)["engine"]
    given = (graph.folder / CALIBRATION_CACHE).read_text().splitlines()
    read = installed.log.config.int8_calibrator.read_calibration_cache().decode().splitlines()
    assert read == ["TRT-101601-EntropyCalibration2", *given[1:]]
    assert len(read) > 40
    assert (built.folder / CALIBRATION_CACHE).read_text().splitlines() == read
    lines = (built.folder / "model.trtexec.txt").read_text().splitlines()
    assert "--int8 --fp16 --calib=calibration.cache" in lines[0]
    assert built.file(HALF_GRAPH) is None  # types are flags here


def test_without_a_cache_types_are_in_the_graph(
    configured: Configure, run_stage: RunStage, installed: FakeTensorRt, for_tensorrt: Artifacts
) -> None:
    graph = for_tensorrt["graph"]
    assert graph.file(CALIBRATION_CACHE) is None
    built = run_stage("build_engine", tensorrt(configured), graph=graph)["engine"]
    assert built.file(HALF_GRAPH) is not None
    assert built.file(CALIBRATION_CACHE) is None
    assert [told for told in installed.log.told if told[0] == "set_flag"] == []


def beside(graph: Path, cache: str, folder: Path) -> Artifact:
    """A graph with a calibration cache beside it."""
    shutil.copyfile(graph, folder / "model.onnx")
    (folder / CALIBRATION_CACHE).write_text(cache)
    return artifact_at(folder, GRAPH)


def test_a_cache_beside_a_graph_with_ranges_is_refused(
    configured: Configure,
    run_stage: RunStage,
    installed: FakeTensorRt,
    for_tensorrt: Artifacts,
    float_with_cache: Artifacts,
    tmp_path: Path,
) -> None:
    cache = (float_with_cache["graph"].folder / CALIBRATION_CACHE).read_text()
    graph = beside(for_tensorrt["graph"].path, cache, tmp_path)
    with pytest.raises(ArtifactError, match=r"has Q/DQ nodes, .*wire a float graph"):
        run_stage("build_engine", tensorrt(configured), graph=graph)


def test_a_cache_of_another_network_is_refused(
    configured: Configure,
    run_stage: RunStage,
    installed: FakeTensorRt,
    float_with_cache: Artifacts,
    tmp_path: Path,
) -> None:
    given = float_with_cache["graph"]
    cache = (given.folder / CALIBRATION_CACHE).read_text() + "elsewhere: 3c010204\n"
    with pytest.raises(ArtifactError, match=r"1 of its \d+ ranges, as of 'elsewhere'"):
        run_stage("build_engine", tensorrt(configured), graph=beside(given.path, cache, tmp_path))
