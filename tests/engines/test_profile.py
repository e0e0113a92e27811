from __future__ import annotations

import pytest

from quantpipe.engines.contract import LayerTime
from quantpipe.engines.profile import fastest_times, operation_times

NAMES = {
    "detect.stems.1": "detect.stems.1",
    "detect.stems.10": "detect.stems.10",
    "relu_3": "detect.stems.1",
    "neck.up": "neck.up",
    "sppf.m": "sppf.m",
    "sppf.m/1": "sppf.m",
}


def divided(**layers: float) -> dict[str, float]:
    times = [LayerTime(name=name, milliseconds=time) for name, time in layers.items()]
    return dict(operation_times(times, NAMES).milliseconds)


@pytest.mark.parametrize(
    "name",
    [
        "detect.stems.1",
        "detect.stems.1/WithoutBiases,Multiply_17,detect.stems.1,relu.QuantizeLinear",  # OpenVINO
        "detect.stems.1_token_12",  # ONNX Runtime
        "relu_3_nchwc",
        "relu_3_nchwc_token_4",
        "detect.stems.1_quant",
        "detect.stems.1.weight.DequantizeLinear",
        "detect.stems.1_bias_dq",
        "detect.stems.1.weight + detect.stems.1.weight.QuantizeLinear + detect.stems.1 + relu",
    ],
)
def test_the_operation_behind_the_names_that_libraries_give(name: str) -> None:
    assert divided(**{name: 2.0}) == {"detect.stems.1": 2.0}


@pytest.mark.parametrize(
    "name",
    [
        "relu_3.QuantizeLinear",
        "detect.stems.12",
        "detect.stems.1x",
        "Transpose_token_3",
        "Reformatting CopyNode for Output Tensor 0 to neck.up + detect.stems.1",
        "",
    ],
)
def test_other_names_belong_to_no_operation(name: str) -> None:
    times = operation_times([LayerTime(name=name, milliseconds=2.0)], NAMES)
    assert (dict(times.milliseconds), times.elsewhere) == ({}, 2.0)


def test_a_layer_of_several_operations_counts_equally_for_each() -> None:
    assert divided(**{"neck.up || detect.stems.10": 3.0}) == {
        "neck.up": 1.5,
        "detect.stems.10": 1.5,
    }


def test_the_layers_of_a_module_that_runs_again_are_summed() -> None:
    assert divided(**{"sppf.m": 1.0, "sppf.m/1": 2.0, "sppf.m/2": 4.0}) == {"sppf.m": 7.0}


def test_the_least_time_of_each_layer() -> None:
    runs = [
        [LayerTime(name="a", milliseconds=a), LayerTime(name="b", milliseconds=b)]
        for a, b in ((1.0, 10.0), (2.0, 90.0), (9.0, 20.0))
    ]
    assert [layer.milliseconds for layer in fastest_times(runs)] == [1.0, 10.0]
