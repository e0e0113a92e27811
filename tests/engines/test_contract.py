from __future__ import annotations

from typing import Any

import pytest

from quantpipe.engines.contract import EngineLayer, float_layers
from quantpipe.errors import ConfigurationError


@pytest.mark.parametrize("batch_sizes", [[], [0], [4, 1], [1, 1]])
def test_batch_sizes_are_positive_and_ascending(tiny: Any, batch_sizes: Any) -> None:
    with pytest.raises(ConfigurationError, match=r"^engine\.batch_sizes: "):
        tiny.settings("openvino", batch_sizes=batch_sizes)


@pytest.mark.parametrize(
    ("precision", "floats", "expected"),
    [("fp32", "half", "fp32"), ("half", "fp32", "half"), ("int8", "half", "half")],
)
def test_float_operations_run_in_the_engines_precision(
    tiny: Any, precision: str, floats: str, expected: str
) -> None:
    settings = tiny.settings("openvino", precision=precision, float_precision=floats)
    assert settings.float_precision == expected


def test_float_layers_are_the_quantizable_ones_in_float() -> None:
    layers = [
        EngineLayer(name="a", kind="Convolution", precision="int8", quantizable=True),
        EngineLayer(name="b", kind="Convolution", precision="bf16", quantizable=True),
        EngineLayer(name="c", kind="Sigmoid", precision="fp32", quantizable=False),
    ]
    assert [layer.name for layer in float_layers(layers)] == ["b"]
