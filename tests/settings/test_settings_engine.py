from __future__ import annotations

from typing import Any

import pytest

from quantpipe.errors import ConfigurationError, MachineError
from quantpipe.schema import build
from quantpipe.settings import engine as settings
from quantpipe.settings.engine import EngineSettings, check_engine, engine_place

VALUES: dict[str, Any] = {
    "name": "onnxruntime",
    "batch_sizes": [1, 32],
    "float_precision": "f32",
    "mode": "latency",
    "num_streams": 0,
    "num_threads": 0,
    "workspace_mib": 64,
    "optimization_level": 3,
    "builder": "polygraphy",
}


def engine(**changes: Any) -> EngineSettings:
    return build(EngineSettings, VALUES | changes, "engine")


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
    monkeypatch.setattr(settings, "availability", lambda name: None)
    with pytest.raises(ConfigurationError, match="'tensorrt' has no 'throughput' mode"):
        check_engine(engine(name="tensorrt", mode="throughput"), "int8")
    check_engine(engine(mode="throughput"), "int8")


def test_an_engine_that_is_not_installed_is_refused_with_the_line_that_installs_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(settings, "availability", lambda name: f"{name}: pip install it")
    with pytest.raises(MachineError, match=r"^engine=openvino: openvino: pip install it$"):
        check_engine(engine(name="openvino"), "int8")


@pytest.mark.parametrize(
    ("builder", "here", "refused"),
    [("polygraphy", False, True), ("polygraphy", True, False), ("api", False, False)],
)
def test_a_missing_polygraphy_is_found_where_tensorrt_is_built_through_it(
    builder: str, here: bool, refused: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(settings, "availability", lambda name: None)
    monkeypatch.setattr(settings, "polygraphy_is_here", lambda: here)
    check_engine(engine(builder=builder), "int8")  # onnxruntime has no use for it
    if not refused:
        check_engine(engine(name="tensorrt", builder=builder), "int8")
        return
    with pytest.raises(MachineError, match=r"^engine\.builder=polygraphy: .* engine\.builder=api$"):
        check_engine(engine(name="tensorrt", builder=builder), "int8")


def test_an_engine_is_tied_to_its_library_and_hardware() -> None:
    place = engine_place(engine())
    assert len(place) >= 2
    assert all(place.values())
