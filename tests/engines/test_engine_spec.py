"""That what is known of an engine costs no import of its library, and has an answer everywhere."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from quantpipe.engines.engine_spec import imported
from quantpipe.engines.registry import ENGINES

_LIBRARIES = ("openvino", "onnxruntime", "tensorrt", "cuda", "onnx", "torch")
_ASK = f"""
import json, sys
from quantpipe.engines.engine_spec import QuantizedNode
from quantpipe.engines.registry import ENGINES
for spec in ENGINES.values():
    spec.fallback(QuantizedNode(kind="Conv", requantized=True))
print(json.dumps([name for name in {_LIBRARIES} if name in sys.modules]))
"""


def test_asking_every_engine_imports_no_library() -> None:
    answer = subprocess.run(
        [sys.executable, "-c", _ASK], capture_output=True, text=True, check=True
    )
    assert json.loads(answer.stdout) == []


def test_a_backend_is_imported_when_it_is_asked_for() -> None:
    backend = imported("quantpipe.no_such_library")
    with pytest.raises(ModuleNotFoundError, match="no_such_library"):
        backend()


@pytest.mark.parametrize("name", ENGINES)
def test_every_engine_reads_an_opset_that_it_is_given(name: str) -> None:
    opsets = ENGINES[name].opsets()
    assert opsets.newest is None or (opsets.best <= opsets.newest and opsets.reader)
