from __future__ import annotations

import pytest

from quantpipe.engines.tensorrt.version import tensorrt_version
from quantpipe.errors import ConfigurationError
from quantpipe.settings import opset as settings
from quantpipe.settings.opset import Opset, resolved_opset


@pytest.fixture
def tensorrt(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    text = request.param
    found = None if text is None else tensorrt_version(text)
    monkeypatch.setattr(settings, "installed_tensorrt", lambda: found)


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
def test_the_target_chooses(tensorrt: None, target: str, opset: Opset, expected: int) -> None:
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
