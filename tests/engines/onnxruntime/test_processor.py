"""What ONNX Runtime alone does; what it shares with OpenVINO is in ``test_processor_engines``."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import onnx
import onnxruntime
import pytest

from quantpipe.engines.contract import float_layers
from quantpipe.engines.registry import build_engine, load_engine
from quantpipe.errors import ArtifactError


def _built(tiny: Any, onnx_path: Path, **changes: Any) -> Path:
    path = onnx_path.with_suffix(".engine")
    build_engine(onnx_path, path, tiny.settings("onnxruntime", **changes))
    return path


def test_it_keeps_a_float_convolution_apart(tiny: Any, int8_onnx: Path) -> None:
    engine = load_engine("onnxruntime", _built(tiny, int8_onnx, precision="int8"))
    # Nothing is quantized behind the head, and ONNX Runtime needs that for an integer kernel.
    assert "head" in {layer.name for layer in float_layers(engine.layers())}


def test_an_opset_newer_than_it_takes_names_both(
    tiny: Any, float_onnx: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(onnx.defs, "onnx_opset_version", lambda: 1000)
    model = tiny.model()
    model.opset_import[0].version = 999
    float_onnx.write_bytes(model.SerializeToString())
    with pytest.raises(ArtifactError) as caught:
        _built(tiny, float_onnx)
    told = (
        r".*float\.onnx: uses opset 999, onnxruntime (\S+) takes opsets up to (\d+); set export\."
    )
    match = re.match(told + r"opset=\2 or less, or install a newer onnxruntime$", str(caught.value))
    assert match is not None
    assert match[1] == onnxruntime.__version__
    assert int(match[2]) >= 20
