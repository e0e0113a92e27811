"""Building through Polygraphy, and the engine file, over stand-ins of five versions."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from tests.engines.fake_cuda import FakeCuda
from tests.engines.fake_tensorrt import (
    VERSIONS,
    FakeTensorRt,
    found_by_polygraphy,
    function,
    put_in_place,
)

from quantpipe.engines import registry
from quantpipe.engines.contract import BuildInputs, Platform
from quantpipe.engines.registry import build_engine, load_engine
from quantpipe.engines.tensorrt.build import build_plan
from quantpipe.errors import ArtifactError, MachineError
from quantpipe.graph.onnx_source import read_onnx_source

OLD, MIDDLE, TYPED, NEW = "8.6.1", "10.3.0", "10.16.1.11", "11.4.0.106"
CACHE = "TRT-8601-EntropyCalibration2\nimages: 3c010204\n"
pytest.importorskip("polygraphy", reason="needs Polygraphy: pip install 'polygraphy>=0.53.6'")


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> Any:
    """``fake(version, **options)``: a stand-in, also as the module that Polygraphy imports."""

    def make(version: str, **options: Any) -> FakeTensorRt:
        trt = FakeTensorRt(version, **options)
        found_by_polygraphy(trt, monkeypatch)
        return trt

    return make


@pytest.fixture
def source(tiny: Any, tmp_path: Path) -> Any:
    return _source(tiny.model(opset=17), tmp_path)


@pytest.fixture
def quantized(tiny: Any, tmp_path: Path) -> Any:
    return _source(tiny.model(opset=17, quantized=True), tmp_path)


def _source(model: onnx.ModelProto, folder: Path) -> Any:
    onnx.save(model, folder / "model.onnx")
    return read_onnx_source(folder / "model.onnx", image_size=(32, 32), batch_sizes=(1, 4))


def _told(trt: FakeTensorRt, name: str) -> list[Any]:
    return [value for told, value in trt.log.told if told == name]


def test_the_stand_ins_are_no_more_generous_than_the_bindings() -> None:
    assert VERSIONS == ["8.6.1", "10.0.1", MIDDLE, TYPED, NEW]
    old, new = FakeTensorRt(OLD), FakeTensorRt(NEW)
    assert "STRONGLY_TYPED" not in old.NetworkDefinitionCreationFlag.__members__
    assert not {"FP16", "INT8"} & set(new.BuilderFlag.__members__)
    assert not hasattr(new, "IInt8EntropyCalibrator2")
    config = new.Builder(None).create_builder_config()
    with pytest.raises(AttributeError, match="'int8_calibrator'"):
        config.int8_calibrator = None
    with pytest.raises(AttributeError, match="'max_workspace_size'"):
        config.max_workspace_size = 1


@pytest.mark.parametrize(
    ("version", "network_flags", "precision", "floats", "expected"),
    [
        (OLD, 1, "fp32", "fp32", []),
        (OLD, 1, "half", "fp32", ["FP16"]),
        (OLD, 1, "int8", "half", ["FP16", "INT8"]),
        (OLD, 1, "int8", "fp32", ["INT8"]),
        ("10.0.1", 0, "half", "half", ["FP16"]),
        (MIDDLE, 0, "int8", "half", ["FP16", "INT8"]),
        (TYPED, 2, "int8", "half", []),
        (TYPED, 2, "fp32", "fp32", []),
        (NEW, 0, "int8", "half", []),
        (NEW, 0, "half", "half", []),
    ],
)
def test_each_version_gets_the_flags_it_has(
    tiny: Any,
    fake: Any,
    source: Any,
    quantized: Any,
    version: str,
    network_flags: Any,
    precision: str,
    floats: str,
    expected: Any,
) -> None:
    trt = fake(version)
    settings = tiny.settings("tensorrt", precision=precision, float_precision=floats)
    build_plan(trt, quantized if precision == "int8" else source, settings)
    assert trt.log.network_flags == network_flags
    assert _told(trt, "set_flag") == expected
    assert _told(trt, "clear_flag") == ["TF32"]
    assert _told(trt, "pool") == [("WORKSPACE", 64 << 20)]
    assert _told(trt, "builder_optimization_level") == [3]
    assert trt.log.plugins == 1


@pytest.mark.parametrize(
    ("version", "cached"),
    [(version, cached) for version in VERSIONS for cached in (False, True)][:-1],  # 11: no caches
)
def test_what_was_timed_before_is_not_timed_again(
    tiny: Any, fake: Any, source: Any, quantized: Any, version: str, cached: bool
) -> None:
    trt = fake(version)
    settings = tiny.settings("tensorrt", precision="int8", float_precision="half")
    timings = f"timings of {version}".encode()
    _, kept = build_plan(
        trt,
        source if cached else quantized,
        settings,
        calibration_cache=CACHE if cached else None,
        timings=timings,
    )
    assert kept == timings
    assert trt.log.timed == 0


def test_each_batch_size_gets_its_own_profile(tiny: Any, fake: Any, source: Any) -> None:
    trt = fake(NEW)
    build_plan(trt, source, tiny.settings("tensorrt"))
    assert _told(trt, "profile") == [{"images": [[n, 3, 32, 32]] * 3} for n in (1, 4)]


def test_height_comes_before_width(tiny: Any, fake: Any, tmp_path: Path) -> None:
    size = (20, 52)
    onnx.save(tiny.model(opset=17, image_size=size), tmp_path / "wide.onnx")
    source = read_onnx_source(tmp_path / "wide.onnx", image_size=size, batch_sizes=(2,))
    trt = fake(NEW)
    build_plan(trt, source, tiny.settings("tensorrt", image_size=size, batch_sizes=[2]))
    assert _told(trt, "profile") == [{"images": [[2, 3, 20, 52]] * 3}]


@pytest.mark.parametrize(
    ("version", "number", "flags"), [(OLD, 8601, 1), (MIDDLE, 100300, 0), (TYPED, 101601, 0)]
)
@pytest.mark.parametrize(
    ("algorithm", "base"),
    [
        ("EntropyCalibration2", "IInt8EntropyCalibrator2"),
        ("MinMaxCalibration", "IInt8MinMaxCalibrator"),
    ],
)
def test_a_calibration_cache_makes_a_weakly_typed_network_up_to_10(
    tiny: Any,
    fake: Any,
    source: Any,
    algorithm: str,
    base: str,
    version: str,
    number: int,
    flags: int,
) -> None:
    trt = fake(version)
    text = CACHE.replace("EntropyCalibration2", algorithm)
    settings = tiny.settings("tensorrt", precision="int8", float_precision="half")
    build_plan(trt, source, settings, calibration_cache=text)
    calibrator = trt.log.config.int8_calibrator
    assert isinstance(calibrator, getattr(trt, base))
    # TensorRT sets a cache of another version aside.
    expected = f"TRT-{number}-{algorithm}\nimages: 3c010204\n"
    assert calibrator.read_calibration_cache() == expected.encode()
    assert calibrator.get_batch(["images"]) is None
    assert trt.log.network_flags == flags
    assert _told(trt, "set_flag") == ["FP16", "INT8"]
    assert _told(trt, "calibration_profile") == [{"images": [[4, 3, 32, 32]] * 3}]


def test_a_calibration_cache_is_refused_where_nothing_reads_it(
    tiny: Any, fake: Any, source: Any
) -> None:
    settings = tiny.settings("tensorrt", precision="int8")
    with pytest.raises(MachineError, match=r"TensorRT 11\.4 has no implicit .* graph with Q/DQ"):
        build_plan(fake(NEW), source, settings, calibration_cache=CACHE)


def test_a_graph_that_is_too_new_for_the_parser_is_told(
    tiny: Any, fake: Any, tmp_path: Path
) -> None:
    source = _source(tiny.model(opset=19), tmp_path)
    with pytest.raises(ArtifactError, match="cannot parse the model: opset 19"):
        build_plan(fake(OLD), source, tiny.settings("tensorrt"))


def test_parser_errors_are_told(tiny: Any, fake: Any, source: Any) -> None:
    with pytest.raises(ArtifactError, match="error 0; error 1"):
        build_plan(fake(NEW, parses=False), source, tiny.settings("tensorrt"))


def test_a_failed_build_is_told(tiny: Any, fake: Any, source: Any) -> None:
    with pytest.raises(MachineError, match=r"Invalid Engine.*workspace_mib"):
        build_plan(fake(NEW, builds=False), source, tiny.settings("tensorrt"))


def test_an_old_polygraphy_is_refused(
    tiny: Any, fake: Any, source: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    trt = fake(NEW)
    import polygraphy

    monkeypatch.setattr(polygraphy, "__version__", "0.49.27")
    with pytest.raises(MachineError, match=r"Polygraphy 0\.49\.27 is too old; pip install -U"):
        build_plan(trt, source, tiny.settings("tensorrt"))


@pytest.mark.parametrize(
    ("timings", "timed"),
    [(b"", 10), (b"timings of 11.4.0.106", 0), (b"timings of another machine", 10)],
)
def test_kernels_are_timed_once(
    tiny: Any, fake: Any, source: Any, timings: bytes, timed: int
) -> None:
    trt = fake(NEW)
    _, kept = build_plan(trt, source, tiny.settings("tensorrt"), timings=timings)
    assert trt.log.timed == timed
    assert kept == b"timings of 11.4.0.106"


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> FakeTensorRt:
    trt = FakeTensorRt(NEW, FakeCuda())
    put_in_place(trt, monkeypatch)
    return trt


def test_from_onnx_to_predictions_through_one_file(
    tiny: Any, installed: Any, float_onnx: Path, tmp_path: Path
) -> None:
    path = tmp_path / "model.engine"
    build_engine(float_onnx, path, tiny.settings("tensorrt"))
    images = tiny.images(5)
    engine = load_engine("tensorrt", path)
    np.testing.assert_allclose(engine.run(images), function(images), rtol=1e-6)
    lines = (tmp_path / "model.trtexec.txt").read_text().splitlines()
    assert [line.count("--onnx=float.onnx") for line in lines] == [1, 0, 1, 0]
    assert [line.count("--loadEngine=model.batch") for line in lines] == [0, 1, 0, 1]
    assert "--optShapes=images:4x3x32x32" in lines[2]
    assert str(tmp_path) not in "".join(lines)


def test_the_timings_of_one_build_serve_the_next(
    tiny: Any, installed: Any, float_onnx: Path, tmp_path: Path
) -> None:
    notes: list[str] = []
    inputs = BuildInputs(memo=tmp_path / "memo", note=notes.append)
    settings = tiny.settings("tensorrt")
    plans = []
    for timed in (10, 0):
        build_engine(float_onnx, tmp_path / "a.engine", settings, inputs)
        plans.append((tmp_path / "a.engine").read_bytes())
        assert installed.log.timed == timed
    assert plans[0] == plans[1]
    (kept,) = (tmp_path / "memo" / "kernel_timings").iterdir()
    kept.write_bytes(kept.read_bytes()[:-1])
    build_engine(float_onnx, tmp_path / "a.engine", settings, inputs)
    assert installed.log.timed == 10
    assert len(notes) == 1
    assert "damaged, ignored" in notes[0]


def test_an_engine_of_another_gpu_is_refused_with_both_names(
    tiny: Any, installed: Any, float_onnx: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "model.engine"
    build_engine(float_onnx, path, tiny.settings("tensorrt"))
    elsewhere = Platform(library=f"tensorrt {NEW}", hardware="NVIDIA L4 (compute capability 8.9)")
    monkeypatch.setattr(registry, "platform_here", lambda name: elsewhere)
    with pytest.raises(MachineError, match=r"NVIDIA T4 .*, but this machine has 'NVIDIA L4"):
        load_engine("tensorrt", path)
