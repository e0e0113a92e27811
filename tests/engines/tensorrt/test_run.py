"""Running plans of five versions over a stand-in of CUDA that counts what is not freed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from tests.engines.fake_cuda import STREAM_HANDLE, FakeCuda
from tests.engines.fake_tensorrt import (
    LAYER_MILLISECONDS,
    VERSIONS,
    FakeTensorRt,
    detected,
    found_by_polygraphy,
    function,
)

from quantpipe.engines.contract import Platform
from quantpipe.engines.engine_file import EngineHeader
from quantpipe.engines.tensorrt.build import build_plan
from quantpipe.engines.tensorrt.cuda import Cuda
from quantpipe.engines.tensorrt.run import TensorRtEngine
from quantpipe.errors import ArtifactError, MachineError
from quantpipe.graph.detections import predictions_from
from quantpipe.graph.onnx_file import DETECTION_OUTPUTS
from quantpipe.graph.onnx_source import read_onnx_source

NEW = "11.4.0.106"


def _header(tiny: Any, batch_sizes: tuple[int, ...], num_classes: int | None = None) -> Any:
    return EngineHeader(
        platform=Platform(library="tensorrt", hardware="NVIDIA T4"),
        settings=tiny.settings("tensorrt", batch_sizes=batch_sizes),
        onnx_sha256="",
        num_classes=num_classes,
    )


@pytest.fixture
def loaded(tiny: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """``loaded(version, **options)``: an engine for batches of 1 and 4, and the GPU it is on."""

    def load(
        version: str = NEW,
        *,
        batch_sizes: tuple[int, ...] = (1, 4),
        fixed_batch: int | None = None,
        detects: bool = False,
        num_classes: int | None = None,
        **gpu: Any,
    ) -> tuple[TensorRtEngine, FakeCuda]:
        cuda = FakeCuda(**gpu)
        trt = FakeTensorRt(version, cuda, detects=detects)
        found_by_polygraphy(trt, monkeypatch)
        built_for = (1, 4) if fixed_batch is None else (fixed_batch,)
        onnx.save(tiny.model(opset=17, batch=fixed_batch or "batch"), tmp_path / "model.onnx")
        source = read_onnx_source(
            tmp_path / "model.onnx", image_size=tiny.image_size, batch_sizes=built_for
        )
        plan, _ = build_plan(trt, source, tiny.settings("tensorrt", batch_sizes=built_for))
        binding = Cuda(runtime=cuda, handle=lambda stream: STREAM_HANDLE)
        try:
            header = _header(tiny, batch_sizes, num_classes)
            return TensorRtEngine(trt, binding, plan, header), cuda
        except Exception:
            assert cuda.held == {}
            raise

    return load


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("num_images", [1, 4, 7])
def test_images_reach_the_engine_and_predictions_come_back(
    tiny: Any, loaded: Any, version: str, num_images: int
) -> None:
    engine, _ = loaded(version)
    for _ in range(3):
        images = tiny.images(num_images)
        np.testing.assert_allclose(engine.run(images), function(images), rtol=1e-6)


@pytest.mark.parametrize("old_graphs", [False, True])
def test_a_batch_size_runs_as_a_graph_from_its_second_run_on(
    tiny: Any, loaded: Any, old_graphs: bool
) -> None:
    engine, cuda = loaded(old_graphs=old_graphs)
    for count in (1, 4, 4, 1, 4):
        engine.run(tiny.images(count))
    assert (cuda.enqueued, cuda.launches) == (2, 3)
    assert cuda.held == {"device": 2, "pinned": 2, "streams": 1, "executables": 2}


def test_what_cannot_be_captured_is_enqueued(tiny: Any, loaded: Any) -> None:
    engine, cuda = loaded(captures=False)
    images = tiny.images(4)
    for _ in range(3):
        np.testing.assert_allclose(engine.run(images), function(images), rtol=1e-6)
    assert (cuda.enqueued, cuda.launches) == (3, 0)


def test_closing_frees_everything_and_twice_does_no_harm(tiny: Any, loaded: Any) -> None:
    engine, cuda = loaded()
    engine.run(tiny.images(5))
    engine.close()
    engine.close()
    assert cuda.held == {}


def test_a_result_is_not_overwritten_by_the_next_run(tiny: Any, loaded: Any) -> None:
    engine, _ = loaded()
    first = engine.run(tiny.images(4))
    kept = first.copy()
    engine.run(np.zeros_like(tiny.images(4)))
    np.testing.assert_array_equal(first, kept)


@pytest.mark.parametrize("version", VERSIONS)
def test_layers_are_told_with_what_they_compute_in(loaded: Any, version: str) -> None:
    engine, _ = loaded(version)
    found = [(layer.name, layer.precision, layer.quantizable) for layer in engine.layers()]
    assert found[1:] == [
        ("stem + relu", "int8", True),
        ("up || pool", "fp16", True),
        ("pool", "int8", True),
        ("sigmoid", "fp16", False),
    ]
    assert found[0][0].startswith("Reformatting")
    assert not found[0][2]


@pytest.mark.parametrize("version", VERSIONS)
def test_the_profiler_is_told_the_layers_of_each_run(tiny: Any, loaded: Any, version: str) -> None:
    """In 8.6 the context that counts has to take the place of the one that runs."""
    engine, cuda = loaded(version)
    images = tiny.images(4)
    engine.run(images)
    layers = engine.profile(images, 3)
    assert {layer.name: layer.milliseconds for layer in layers} == LAYER_MILLISECONDS
    for _ in range(2):
        np.testing.assert_allclose(engine.run(images), function(images), rtol=1e-6)
    engine.close()
    assert cuda.held == {}


def test_a_batch_that_no_profile_takes_is_refused(tiny: Any, loaded: Any) -> None:
    engine, _ = loaded()
    with pytest.raises(MachineError, match=r"batches of 1, 4, not of 3; add 3 to engine\.batch"):
        engine.profile(tiny.images(3), 1)


def test_a_graph_of_one_batch_size_runs_any_number_of_images(tiny: Any, loaded: Any) -> None:
    engine, _ = loaded(batch_sizes=(4,), fixed_batch=4)
    images = tiny.images(6)
    np.testing.assert_allclose(engine.run(images), function(images), rtol=1e-6)
    with pytest.raises(ArtifactError, match="batches of 4 to 4, not of 2"):
        loaded(batch_sizes=(2,), fixed_batch=4)


def test_an_engine_of_other_batches_than_its_file_says_is_refused(loaded: Any) -> None:
    with pytest.raises(ArtifactError, match="batches of 1 to 1, 4 to 4, not of 1, 8"):
        loaded(batch_sizes=(1, 8))


@pytest.mark.parametrize("memory", [100, 49_200])
def test_no_gpu_memory_names_the_call_and_leaves_nothing(loaded: Any, memory: int) -> None:
    """With 49 200 bytes the buffer of the input fits and the next does not."""
    with pytest.raises(MachineError, match="cudaMalloc failed with cudaErrorMemoryAllocation"):
        loaded(memory=memory)


@pytest.mark.parametrize("version", VERSIONS)
def test_detections_come_back_as_predictions(tiny: Any, loaded: Any, version: str) -> None:
    engine, cuda = loaded(version, detects=True, num_classes=2)
    images = tiny.images(4) * np.array([0.1, 0.6, 1.2, 2.0], dtype=np.float32).reshape(-1, 1, 1, 1)
    made = detected(images)
    assert made["num_dets"].ravel().tolist() == [0, 1, 2, 3]
    expected = predictions_from([made[name] for name in DETECTION_OUTPUTS], 2)
    for _ in range(2):
        np.testing.assert_allclose(engine.run(images), expected, rtol=1e-6)
    sizes = [4 * 4, 4 * 3 * 4, 4 * 3 * 4, 4 * 3 * 4 * 4, 4 * 3 * 32 * 32 * 4]
    assert sorted(len(buffer) for buffer in cuda.device.values()) == sizes


@pytest.mark.parametrize(("detects", "num_classes"), [(True, None), (False, 2)])
def test_other_outputs_than_the_file_says_are_refused(
    loaded: Any, detects: bool, num_classes: int | None
) -> None:
    with pytest.raises(ArtifactError, match="has the inputs images and the outputs"):
        loaded(detects=detects, num_classes=num_classes)


def test_a_gpu_that_cuda_cannot_use_is_told(tiny: Any, tmp_path: Path) -> None:
    trt = FakeTensorRt(NEW, gpu=False)
    onnx.save(tiny.model(), tmp_path / "model.onnx")
    source = read_onnx_source(
        tmp_path / "model.onnx", image_size=tiny.image_size, batch_sizes=(1, 4)
    )
    with pytest.raises(MachineError, match=r"finds no GPU .* nvidia-smi"):
        build_plan(trt, source, tiny.settings("tensorrt"))
    binding = Cuda(runtime=FakeCuda(), handle=lambda stream: STREAM_HANDLE)
    with pytest.raises(MachineError, match="finds no GPU"):
        TensorRtEngine(trt, binding, b"{}", _header(tiny, (1,)))


def test_a_refused_plan_is_told(tiny: Any) -> None:
    binding = Cuda(runtime=FakeCuda(), handle=lambda stream: STREAM_HANDLE)
    with pytest.raises(MachineError, match="refuses"):
        TensorRtEngine(FakeTensorRt(NEW), binding, b"refused", _header(tiny, (1,)))
