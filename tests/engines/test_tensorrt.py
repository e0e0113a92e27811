from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from quantpipe.engines import engine as engine_table
from quantpipe.engines.onnx_source import read_onnx_source
from quantpipe.engines.tensorrt_build import build_plan
from quantpipe.engines.tensorrt_run import Cuda, TensorRtEngine
from quantpipe.engines.tensorrt_version import tensorrt_version
from quantpipe.engines.trtexec import trtexec_command
from quantpipe.errors import ArtifactError, MachineError

OLD, TYPED, NEW = "8.6.1", "10.16.0", "11.4.0.106"
CACHE = "TRT-8601-EntropyCalibration2\nimages: 3c010204\n"


def _load_fakes() -> Any:
    """Loads the stand-ins beside this file, which is no package."""
    path = Path(__file__).with_name("fake_tensorrt.py")
    spec = importlib.util.spec_from_file_location("fake_tensorrt", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


fakes = _load_fakes()


@pytest.fixture
def source(float_onnx: Path) -> Any:
    return read_onnx_source(float_onnx, image_size=32, batch_sizes=(1, 4))


@pytest.mark.parametrize(
    ("version", "network_flags", "precision", "floats", "expected"),
    [
        (OLD, 1, "f32", "f32", []),
        (OLD, 1, "half", "f32", ["FP16"]),
        (OLD, 1, "int8", "half", ["INT8", "FP16"]),
        (OLD, 1, "int8", "f32", ["INT8"]),
        ("10.3.0", 0, "int8", "half", ["INT8", "FP16"]),
        (TYPED, 2, "int8", "half", []),
        (TYPED, 2, "f32", "f32", []),
        (NEW, 0, "int8", "half", []),
        (NEW, 0, "half", "half", []),
    ],
)
def test_each_version_gets_the_flags_it_has(
    tiny: Any,
    source: Any,
    version: str,
    network_flags: Any,
    precision: str,
    floats: str,
    expected: Any,
) -> None:
    trt = fakes.FakeTensorRt(version)
    build_plan(trt, source, tiny.settings(precision=precision, float_precision=floats))
    assert trt.log.network_flags == network_flags
    assert trt.log.flags == expected
    assert trt.log.cleared == ["TF32"]
    assert trt.log.workspace == 64 << 20


def test_each_batch_size_gets_its_own_profile(tiny: Any, source: Any) -> None:
    trt = fakes.FakeTensorRt(NEW)
    build_plan(trt, source, tiny.settings())
    shapes = [profile.shapes["images"] for profile in trt.log.profiles]
    assert shapes == [((n, 3, 32, 32),) * 3 for n in (1, 4)]


@pytest.mark.parametrize(
    ("algorithm", "base"),
    [
        ("EntropyCalibration2", "IInt8EntropyCalibrator2"),
        ("MinMaxCalibration", "IInt8MinMaxCalibrator"),
    ],
)
def test_a_calibration_cache_reaches_tensorrt_8(
    tiny: Any, source: Any, algorithm: Any, base: Any
) -> None:
    trt = fakes.FakeTensorRt(OLD)
    text = CACHE.replace("EntropyCalibration2", algorithm)
    build_plan(trt, source, tiny.settings(precision="int8", calibration_cache=text))
    calibrator = trt.log.config.int8_calibrator
    assert isinstance(calibrator, getattr(trt, base))
    assert calibrator.read_calibration_cache() == text.encode()
    assert calibrator.get_batch(["images"]) is None


@pytest.mark.parametrize("version", [TYPED, NEW])
def test_a_calibration_cache_is_refused_where_types_are_in_the_graph(
    tiny: Any, source: Any, version: str
) -> None:
    trt = fakes.FakeTensorRt(version)
    with pytest.raises(MachineError, match="Q/DQ"):
        build_plan(trt, source, tiny.settings(precision="int8", calibration_cache=CACHE))


def test_parser_errors_are_told(tiny: Any, source: Any) -> None:
    with pytest.raises(ArtifactError, match="error 0; error 1"):
        build_plan(fakes.FakeTensorRt(NEW, parses=False), source, tiny.settings())


def test_a_failed_build_is_told(tiny: Any, source: Any) -> None:
    with pytest.raises(MachineError, match="could not build"):
        build_plan(fakes.FakeTensorRt(NEW, builds=False), source, tiny.settings())


def _engine(tiny: Any, source: Any, version: str = NEW, memory: int = 1 << 30) -> Any:
    trt, cuda = fakes.FakeTensorRt(version), fakes.FakeCuda(memory=memory)
    plan = build_plan(trt, source, tiny.settings())
    binding = Cuda(runtime=cuda, handle=lambda stream: 77)
    return TensorRtEngine(trt, binding, plan, (1, 4), 32), cuda


@pytest.mark.parametrize("version", [OLD, "10.3.0", TYPED, NEW])
@pytest.mark.parametrize("num_images", [1, 4, 7])
def test_images_reach_the_engine_and_predictions_come_back(
    tiny: Any, source: Any, version: str, num_images: int
) -> None:
    engine, _ = _engine(tiny, source, version)
    images = tiny.images(num_images)
    np.testing.assert_allclose(engine.run(images), fakes.function(images), rtol=1e-6)


def test_closing_frees_everything(tiny: Any, source: Any) -> None:
    engine, cuda = _engine(tiny, source)
    assert (len(cuda.allocated), cuda.streams) == (2, 1)
    engine.close()
    assert (len(cuda.allocated), cuda.streams) == (0, 0)


@pytest.mark.parametrize("version", [OLD, TYPED, NEW])
def test_layers_are_read_from_both_forms_of_the_inspector(
    tiny: Any, source: Any, version: str
) -> None:
    engine, _ = _engine(tiny, source, version)
    found = [(layer.name, layer.precision, layer.quantizable) for layer in engine.layers()]
    assert found == [
        ("stem + relu", "int8", True),
        ("up", "f16", True),
        ("pool", "f16", True),
        ("sigmoid", "f16", False),
    ]


@pytest.mark.parametrize("version", [OLD, TYPED, NEW])
def test_the_profiler_is_told_the_layers_of_each_run(tiny: Any, source: Any, version: str) -> None:
    engine, _ = _engine(tiny, source, version)
    images = tiny.images(4)
    layers = engine.profile(images, 3)
    assert {layer.name: layer.milliseconds for layer in layers} == fakes.LAYER_MILLISECONDS
    np.testing.assert_allclose(engine.run(images), fakes.function(images), rtol=1e-6)


def test_no_gpu_memory_names_the_call(tiny: Any, source: Any) -> None:
    with pytest.raises(MachineError, match="cudaMalloc"):
        _engine(tiny, source, memory=100)


def test_a_refused_plan_is_told() -> None:
    binding = Cuda(runtime=fakes.FakeCuda(), handle=lambda stream: 77)
    with pytest.raises(MachineError, match="refuses"):
        TensorRtEngine(fakes.FakeTensorRt(NEW), binding, b"refused", (1,), 32)


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Puts the stand-ins in the place of the libraries, and a GPU in the machine."""
    runtime, cuda = fakes.FakeCuda(), ModuleType("cuda")
    bindings = ModuleType("cuda.bindings")
    utils = ModuleType("cuda.bindings.utils")
    vars(bindings)["runtime"] = runtime
    vars(utils)["get_cuda_native_handle"] = lambda stream: 77
    modules = {
        "tensorrt": fakes.FakeTensorRt(NEW),
        "cuda": cuda,
        "cuda.bindings": bindings,
        "cuda.bindings.utils": utils,
    }
    for name, module in modules.items():
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.delitem(sys.modules, "quantpipe.engines.tensorrt", raising=False)
    place = {"library": f"tensorrt {NEW}", "hardware": "NVIDIA T4 (compute capability 7.5)"}
    monkeypatch.setattr(engine_table, "availability", lambda name: None)
    monkeypatch.setattr(engine_table, "identity", lambda name: place)
    yield
    sys.modules.pop("quantpipe.engines.tensorrt", None)


def test_from_onnx_to_predictions_through_one_file(
    tiny: Any, installed: Any, float_onnx: Path, tmp_path: Path
) -> None:
    path = tmp_path / "model.engine"
    engine_table.build_engine("tensorrt", float_onnx, path, tiny.settings())
    images = tiny.images(5)
    engine = engine_table.load_engine("tensorrt", path)
    np.testing.assert_allclose(engine.run(images), fakes.function(images), rtol=1e-6)
    lines = (tmp_path / "model.trtexec.txt").read_text().splitlines()
    assert [line.count("--onnx=float.onnx") for line in lines] == [1, 1]
    assert "--shapes=images:4x3x32x32" in lines[1]
    assert str(tmp_path) not in "".join(lines)


def _command(tiny: Any, version: str, **changes: Any) -> Any:
    return trtexec_command(
        tensorrt_version(version),
        tiny.settings(**changes),
        onnx_name="model.onnx",
        plan_name="model.plan",
        input_name="images",
        batch_size=1,
        calibration_cache_name=None,
    ).split()


@pytest.mark.parametrize(
    ("version", "has", "lacks"),
    [
        (OLD, {"--int8", "--fp16", "--useCudaGraph", "--noDataTransfers"}, {"--stronglyTyped"}),
        (TYPED, {"--stronglyTyped", "--useCudaGraph"}, {"--int8", "--fp16", "--best"}),
        (NEW, {"--infStreams=1"}, {"--int8", "--fp16", "--useCudaGraph", "--stronglyTyped"}),
    ],
)
def test_trtexec_is_told_what_its_version_knows(
    tiny: Any, version: str, has: Any, lacks: Any
) -> None:
    arguments = set(_command(tiny, version, precision="int8", float_precision="half"))
    assert has <= arguments
    assert not lacks & arguments
    assert "--memPoolSize=workspace:64" in arguments


def test_a_calibration_cache_is_handed_to_trtexec(tiny: Any) -> None:
    command = trtexec_command(
        tensorrt_version(OLD),
        tiny.settings(precision="int8"),
        onnx_name="a b.onnx",
        plan_name="model.plan",
        input_name="images",
        batch_size=1,
        calibration_cache_name="calibration.cache",
    )
    assert "--calib=calibration.cache" in command
    assert "'--onnx=a b.onnx'" in command
