from __future__ import annotations

from typing import Any

import pytest

from quantpipe.engines.tensorrt_version import tensorrt_version
from quantpipe.errors import MachineError


@pytest.mark.parametrize(
    ("text", "types_in_graph", "implicit", "opset"),
    [
        ("8.6.1", False, True, 17),
        ("tensorrt 10.3.0", False, True, 17),
        ("10.12.0.36", True, True, 20),
        ("11.4.0.106", True, False, 20),
    ],
)
def test_what_a_version_takes(text: str, types_in_graph: Any, implicit: Any, opset: int) -> None:
    version = tensorrt_version(text)
    assert version.types_in_graph == types_in_graph
    assert version.implicit_quantization == implicit
    assert version.opset == opset


@pytest.mark.parametrize("text", ["8.5.3", "7.2", "unknown"])
def test_older_ones_are_refused(text: str) -> None:
    with pytest.raises(MachineError):
        tensorrt_version(text)
