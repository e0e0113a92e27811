from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf

from quantpipe.engines import registry
from quantpipe.engines.registry import ENGINES
from quantpipe.engines.tensorrt import spec as tensorrt_spec
from quantpipe.engines.tensorrt.version import tensorrt_version
from quantpipe.errors import ConfigurationError, MachineError
from quantpipe.schema import convert
from quantpipe.settings import engine as settings
from quantpipe.settings.engine import (
    EngineSettings,
    Opset,
    check_engine,
    engine_platform,
    resolved_opset,
)

CONF = Path(__file__).parents[2] / "conf" / "engine"
VALUES: dict[str, Any] = {
    "onnxruntime": {"num_streams": 0, "num_threads": 0},
    "openvino": {"num_streams": 0, "num_threads": 0},
    "onnxruntime_cuda": {},
    "tensorrt": {"workspace_mib": 64, "optimization_level": 3},
}


def engine(name: str = "onnxruntime", **changes: Any) -> EngineSettings:
    shared = {"batch_sizes": [1, 32], "float_precision": "fp32", "mode": "latency"}
    values = {"name": name, **shared, **VALUES[name], **changes}
    made: EngineSettings = convert(EngineSettings, values, "engine")
    return made


@pytest.mark.parametrize("name", list(ENGINES))
def test_a_file_holds_what_its_library_reads_and_nothing_else(name: str) -> None:
    values = OmegaConf.to_container(OmegaConf.load(CONF / f"{name}.yaml"))
    assert isinstance(values, dict)
    assert set(values) == {field.name for field in fields(ENGINES[name].settings)}
    assert type(convert(EngineSettings, values, "engine")) is ENGINES[name].settings


@pytest.mark.parametrize(
    ("name", "key"),
    [
        ("openvino", "workspace_mib"),
        ("onnxruntime", "optimization_level"),
        ("tensorrt", "num_streams"),
        ("tensorrt", "builder"),
        ("onnxruntime_cuda", "workspace_mib"),
    ],
)
def test_what_a_library_does_not_read_is_refused(name: str, key: str) -> None:
    with pytest.raises(ConfigurationError, match=rf"^engine\.{key}: there is no such setting"):
        engine(name, **{key: 1})


def test_an_unknown_engine_names_the_nearest() -> None:
    with pytest.raises(ConfigurationError, match=r"^engine\.name: .*did you mean 'openvino'"):
        convert(EngineSettings, {"name": "openvno"}, "engine")


def test_a_former_name_of_a_precision_names_the_present_one() -> None:
    line = r"^engine\.float_precision: 'f32' is not one of fp32, half; did you mean 'fp32'\?$"
    with pytest.raises(ConfigurationError, match=line):
        engine(float_precision="f32")


@pytest.mark.parametrize("sizes", [[], [32, 1], [1, 1]])
def test_batch_sizes_ascend(sizes: list[int]) -> None:
    with pytest.raises(ConfigurationError, match=r"^engine\.batch_sizes: .* ascending list$"):
        engine(batch_sizes=sizes)


def test_an_engine_that_is_here_passes() -> None:
    check_engine(engine(), "int8")


def test_a_precision_without_kernels_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="has no 'half' kernels"):
        check_engine(engine(), "half")


def test_a_mode_that_the_library_lacks_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(settings, "availability", lambda name, **how: None)
    with pytest.raises(ConfigurationError, match="'tensorrt' has no 'throughput' mode"):
        check_engine(engine("tensorrt", mode="throughput"), "int8")
    check_engine(engine(mode="throughput"), "int8")


def test_an_engine_that_is_not_installed_is_refused_with_the_line_that_installs_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(settings, "availability", lambda name, **how: f"{name}: pip install it")
    with pytest.raises(MachineError, match=r"^engine=openvino: openvino: pip install it$"):
        check_engine(engine("openvino"), "int8")


def test_a_missing_polygraphy_is_found_before_anything_is_built(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(registry, "_installed", lambda name: name != "polygraphy")
    with pytest.raises(MachineError, match=r"^engine=tensorrt: .* needs polygraphy; .*\[tensorrt"):
        check_engine(engine("tensorrt"), "int8")
    check_engine(engine(), "int8")  # which has no use for it


def test_an_engine_is_tied_to_its_library_and_hardware() -> None:
    here = engine_platform(engine())
    assert here.library.startswith("onnxruntime ")
    assert here.hardware


@pytest.fixture
def tensorrt(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    text = request.param
    found = None if text is None else tensorrt_version(text)
    monkeypatch.setattr(tensorrt_spec, "installed_tensorrt", lambda: found)


@pytest.mark.parametrize(
    ("tensorrt", "target", "opset", "expected"),
    [
        ("8.6.1", "tensorrt", "auto", 17),
        ("10.16.1", "tensorrt", "auto", 20),
        (None, "tensorrt", "auto", 20),
        (None, "tensorrt", 23, 23),
        ("8.6.1", "openvino", "auto", 20),
        ("8.6.1", "openvino", 23, 23),
        ("8.6.1", "tensorrt", 17, 17),
        ("11.4.0", "tensorrt", 23, 23),
    ],
    indirect=["tensorrt"],
)
def test_the_target_chooses_the_opset(
    tensorrt: None, target: str, opset: Opset, expected: int
) -> None:
    assert resolved_opset(opset, target) == expected


@pytest.mark.parametrize(
    ("tensorrt", "opset", "line"),
    [
        ("8.6.1", 20, "latency.opset: TensorRT 8.6 parses ONNX up to opset 17, not 20"),
        ("10.0.1", 21, "latency.opset: TensorRT 10.0 parses ONNX up to opset 20, not 21"),
    ],
    indirect=["tensorrt"],
)
def test_what_the_parser_does_not_take_is_refused(tensorrt: None, opset: int, line: str) -> None:
    with pytest.raises(ConfigurationError, match=line):
        resolved_opset(opset, "tensorrt", path="latency.opset")
