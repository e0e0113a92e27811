from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch
from torch import Tensor

from quantpipe.errors import NumericalError
from quantpipe.progress import Silent
from quantpipe.quantization.calibration.weights import weight_scales
from quantpipe.quantization.number_format import INT8
from quantpipe.quantization.operations import find_operations

if TYPE_CHECKING:
    from tests.quantization.conftest import Notes, SmallNetwork


EXAMPLE = torch.rand(1, 3, 32, 32)


def test_axes_and_values(network: SmallNetwork) -> None:
    scales = weight_scales(
        network, find_operations(network, EXAMPLE), "max", progress=Silent(), number_format=INT8
    )
    assert "pool.weight" not in scales
    assert "unused.weight" not in scales
    conv, up = scales["stem.weight"], scales["up.weight"]
    assert (conv.axis, up.axis) == (0, None)
    assert torch.tensor(conv.amax).equal(network.stem.weight.abs().amax(dim=(1, 2, 3)))
    assert up.amax == (float(network.up.weight.detach().abs().max()),)


def test_least_squared_error_is_that_of_an_exhaustive_search(network: SmallNetwork) -> None:
    generator = torch.Generator().manual_seed(1)
    operations = find_operations(network, EXAMPLE)
    network.down.weight.data = torch.randn(8, 8, 25, 25, generator=generator)
    found = torch.tensor(
        weight_scales(network, operations, "mse", progress=Silent(), number_format=INT8)[
            "down.weight"
        ].amax
    )
    rows = network.down.weight.detach().flatten(1)

    def error(amax: Tensor) -> Tensor:
        scale = amax[:, None] / 127
        rounded = (rows / scale).round().clamp(-127, 127) * scale
        return (rounded - rows).square().sum(dim=1)

    largest = rows.abs().amax(dim=1)
    ratios = [percent / 100 for percent in range(50, 101, 2)]
    least = torch.stack([error(largest * ratio) for ratio in ratios]).amin(dim=0)
    torch.testing.assert_close(error(found), least)
    assert (error(found) < error(largest)).any()


def test_zero_channels_get_a_small_range_and_a_note(network: SmallNetwork, notes: Notes) -> None:
    network.stem.weight.data[[2, 5]] = 0.0
    for method in ("max", "mse"):
        scales = weight_scales(
            network, find_operations(network, EXAMPLE), method, progress=notes, number_format=INT8
        )
        assert [scales["stem.weight"].amax[i] for i in (2, 5)] == [INT8.floor_amax] * 2
    assert notes.notes == ["weights of operation 'stem' are zero in channels [2, 5]"] * 2


def test_nan_names_the_operation(network: SmallNetwork) -> None:
    network.down.weight.data[0, 0, 0, 0] = float("nan")
    operations = find_operations(network, EXAMPLE)
    with pytest.raises(NumericalError, match="'down'"):
        weight_scales(network, operations, "max", progress=Silent(), number_format=INT8)
