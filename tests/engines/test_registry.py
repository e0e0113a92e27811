from __future__ import annotations

import shutil
import subprocess
import sys
from dataclasses import replace
from importlib import util
from pathlib import Path
from typing import Any, cast

import pytest

from quantpipe.engines import hardware, registry
from quantpipe.engines.registry import (
    ENGINES,
    availability,
    build_engine,
    engine_spec,
    load_engine,
    platform_here,
    require_precision,
)
from quantpipe.errors import ConfigurationError, MachineError


def test_asking_costs_no_heavy_import() -> None:
    code = (
        "import sys\n"
        "from quantpipe.engines.registry import ENGINES, availability, platform_here\n"
        "[availability(name, building=True) for name in ENGINES]\n"
        "platform_here('openvino'); platform_here('onnxruntime')\n"
        "heavy = {'openvino', 'onnxruntime', 'tensorrt', 'torch', 'onnx', 'cuda', 'polygraphy'}\n"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


@pytest.mark.parametrize("name", ["openvino", "onnxruntime"])
def test_a_platform_names_version_and_processor(name: str) -> None:
    import importlib.metadata

    here = platform_here(name)
    assert here.library == f"{name} {importlib.metadata.version(name)}"
    assert here.hardware == hardware.processor()
    assert availability(name) is None


def test_a_missing_library_gives_the_install_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(util, "find_spec", lambda name: None)
    for name, kind in ENGINES.items():
        reason = availability(name)
        assert reason is not None
        assert kind.install in reason
        with pytest.raises(MachineError, match="install it with"):
            platform_here(name)


def test_a_missing_library_stops_build_and_load(
    tiny: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(util, "find_spec", lambda name: None)
    with pytest.raises(MachineError):
        build_engine(tmp_path / "a.onnx", tmp_path / "a.engine", tiny.settings("openvino"))
    with pytest.raises(MachineError):
        load_engine("tensorrt", tmp_path / "a.engine")


@pytest.mark.parametrize("error", [ImportError("libcudart.so.13"), OSError("libcudart.so.13")])
def test_a_library_that_lacks_another_one_is_a_machine_error(
    tiny: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, error: Exception
) -> None:
    def broken() -> Any:
        raise error

    kind = replace(ENGINES["openvino"], backend=broken)
    monkeypatch.setitem(cast("dict[str, Any]", ENGINES), "openvino", kind)
    line = r"'openvino' cannot be imported: libcudart\.so\.13; install it anew with: pip install"
    with pytest.raises(MachineError, match=line):
        load_engine("openvino", tmp_path / "a.engine")
    with pytest.raises(MachineError, match=line):
        build_engine(tmp_path / "a.onnx", tmp_path / "a.engine", tiny.settings("openvino"))


def test_tensorrt_needs_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "_installed", lambda name: True)
    monkeypatch.setattr(shutil, "which", lambda name: None)
    hardware.nvidia_gpu.cache_clear()
    reason = availability("tensorrt")
    hardware.nvidia_gpu.cache_clear()
    assert reason is not None
    assert "GPU" in reason


def test_an_unknown_engine_names_the_nearest() -> None:
    with pytest.raises(ConfigurationError, match="did you mean 'openvino'"):
        engine_spec("openvno")


def test_a_precision_without_kernels_is_refused() -> None:
    require_precision("openvino", "half")
    with pytest.raises(ConfigurationError, match="half"):
        require_precision("onnxruntime", "half")
