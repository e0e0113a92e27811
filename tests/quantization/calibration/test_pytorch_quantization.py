from __future__ import annotations

import logging
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch import Tensor

from quantpipe.errors import ConfigurationError, MachineError
from quantpipe.progress import Silent
from quantpipe.quantization.calibration.collect import collect, solve
from quantpipe.quantization.calibration.pytorch_quantization import (
    pytorch_quantization_amax,
    pytorch_quantization_calibrators,
)
from quantpipe.quantization.calibration.weights import weight_scales
from quantpipe.quantization.number_format import INT8
from quantpipe.quantization.operations import find_operations

if TYPE_CHECKING:
    from tests.quantization.conftest import Notes, SmallNetwork


@pytest.mark.parametrize(
    ("method", "percentile"), [("max", None), ("percentile", 99.0), ("percentile", 99.99)]
)
def test_same_ranges_within_a_bin(
    network: SmallNetwork, batches: list[Tensor], method: Any, percentile: Any
) -> None:
    batches[2] = batches[2] * 3.0  # makes the histograms grow
    operations = find_operations(network, batches[0][:1])
    statistics = collect(network, operations, batches, progress=Silent())
    ours = solve(statistics, method, percentile=percentile, progress=Silent(), number_format=INT8)
    theirs = pytorch_quantization_amax(
        network,
        operations,
        batches,
        method=method,
        percentile=percentile,
        progress=Silent(),
        number_format=INT8,
    )
    assert ours.keys() == theirs.keys()
    for name, histogram in statistics.histograms.items():
        assert abs(ours[name] - theirs[name]) <= histogram.width * 1.01, name


@pytest.mark.slow
def test_same_entropy_range_within_a_bin(network: SmallNetwork, batches: list[Tensor]) -> None:
    operations = [o for o in find_operations(network, batches[0][:1]) if o.name in ("down", "left")]
    statistics = collect(network, operations, batches, progress=Silent())
    ours = solve(statistics, "entropy", progress=Silent(), number_format=INT8)
    theirs = pytorch_quantization_amax(
        network, operations, batches, method="entropy", progress=Silent(), number_format=INT8
    )
    for name, histogram in statistics.histograms.items():
        assert abs(ours[name] - theirs[name]) <= histogram.width * 1.01, name


def test_weight_ranges_are_the_toolkits(network: SmallNetwork, batches: list[Tensor]) -> None:
    operations = find_operations(network, batches[0][:1])
    calib = pytorch_quantization_calibrators()
    for name, scale in weight_scales(
        network, operations, "max", progress=Silent(), number_format=INT8
    ).items():
        calibrator = calib.MaxCalibrator(8, scale.axis, unsigned=False)
        calibrator.collect(network.get_parameter(name).detach())
        assert torch.tensor(scale.amax).equal(calibrator.compute_amax().flatten())


def test_an_input_that_is_always_zero_does_not_stop_it(
    network: SmallNetwork, batches: list[Tensor], notes: Notes
) -> None:
    network.down.weight.data.zero_()
    network.get_parameter("down.bias").data.zero_()
    operations = find_operations(network, batches[0][:1])
    amax = pytorch_quantization_amax(
        network,
        operations,
        batches,
        method="percentile",
        percentile=99.0,
        progress=notes,
        number_format=INT8,
    )
    assert amax["up"] > 0
    assert len(notes.notes) == 1


@pytest.mark.skipif(torch.cuda.is_available(), reason="the toolkit runs mse on CUDA")
def test_mse_without_cuda_says_so(network: SmallNetwork, batches: list[Tensor]) -> None:
    with pytest.raises(MachineError, match=r"CUDA only; use calibrate\.implementation"):
        pytorch_quantization_amax(
            network, (), batches, method="mse", progress=Silent(), number_format=INT8
        )


def test_bad_percentile_is_refused_before_any_work(network: SmallNetwork) -> None:
    with pytest.raises(ConfigurationError):
        pytorch_quantization_amax(
            network,
            (),
            [],
            method="percentile",
            percentile=101.0,
            progress=Silent(),
            number_format=INT8,
        )


def test_missing_toolkit_names_the_install_line(
    network: SmallNetwork, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pytorch_quantization", None)
    with pytest.raises(MachineError, match="pip install pytorch-quantization"):
        pytorch_quantization_calibrators()


def test_import_leaves_the_root_logger_alone() -> None:
    before = list(logging.getLogger().handlers)
    pytorch_quantization_calibrators()
    assert logging.getLogger().handlers == before


def test_import_prints_nothing() -> None:
    module = "quantpipe.quantization.calibration.pytorch_quantization"
    code = f"from {module} import pytorch_quantization_calibrators as t; t()"
    done = subprocess.run(
        [sys.executable, "-W", "default", "-c", code], capture_output=True, text=True, check=True
    )
    assert (done.stdout, done.stderr) == ("", "")
