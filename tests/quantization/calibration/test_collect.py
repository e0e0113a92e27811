from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from torch import Tensor

from quantpipe.errors import ConfigurationError, DataError, NumericalError
from quantpipe.progress import Silent
from quantpipe.quantization.calibration.collect import Statistics, collect, solve
from quantpipe.quantization.calibration.histogram import Histogram
from quantpipe.quantization.number_format import INT8
from quantpipe.quantization.operations import Operation, find_operations

if TYPE_CHECKING:
    from tests.quantization.conftest import Notes, SmallNetwork


@pytest.fixture
def operations(network: SmallNetwork, batches: list[Tensor]) -> tuple[Operation, ...]:
    return find_operations(network, batches[0][:1])


@pytest.fixture
def statistics(
    network: SmallNetwork, operations: tuple[Operation, ...], batches: list[Tensor]
) -> Statistics:
    return collect(network, operations, batches, progress=Silent())


def test_max_is_what_plain_hooks_see(
    network: SmallNetwork,
    operations: tuple[Operation, ...],
    batches: list[Tensor],
    statistics: Statistics,
) -> None:
    seen: dict[str, float] = {}
    for name, module in network.named_children():
        module.register_forward_pre_hook(
            lambda _, inputs, name=name: seen.__setitem__(
                name, max(seen.get(name, 0.0), float(inputs[0].abs().max()))
            )
        )
    with torch.no_grad():
        for images in batches:
            network(images)
    assert solve(statistics, "max", progress=Silent(), number_format=INT8) == seen
    assert statistics.num_images == 12


def test_the_same_tensor_is_counted_once(statistics: Statistics) -> None:
    assert statistics.histograms["left"] is statistics.histograms["right"]
    assert statistics.histograms["left"].counts.sum() == 12 * 8 * 16 * 16
    # Both calls of the pool count.
    assert statistics.histograms["pool"].counts.sum() == 2 * 12 * 8 * 16 * 16


@pytest.mark.parametrize("method", ["percentile", "entropy", "mse"])
def test_methods_clip_and_stay_positive(statistics: Statistics, method: Any) -> None:
    largest = solve(statistics, "max", progress=Silent(), number_format=INT8)
    amax = solve(statistics, method, percentile=99.0, progress=Silent(), number_format=INT8)
    for name, value in amax.items():
        assert 0.0 < value <= largest[name] * (1 + 1 / 2048)


def test_nan_names_image_and_operation(
    network: SmallNetwork, operations: tuple[Operation, ...], batches: list[Tensor]
) -> None:
    batches[1][2, 0, 5, 5] = float("nan")
    with pytest.raises(NumericalError, match=r"image 6 .*'stem'"):
        collect(network, operations, batches, progress=Silent())


def test_infinity_inside_the_network_names_the_first_operation_that_reads_it(
    network: SmallNetwork, operations: tuple[Operation, ...], batches: list[Tensor]
) -> None:
    network.get_parameter("after_pools.bias").data[0] = float("inf")
    with pytest.raises(NumericalError, match=r"image 0 .*'down'"):
        collect(network, operations, batches, progress=Silent())


def test_hooks_are_gone_after_an_error(
    network: SmallNetwork, operations: tuple[Operation, ...], batches: list[Tensor]
) -> None:
    batches[0][0] = float("nan")
    with pytest.raises(NumericalError):
        collect(network, operations, batches, progress=Silent())
    assert not any(module._forward_pre_hooks for module in network.modules())


def test_no_images_is_an_error(network: SmallNetwork, operations: tuple[Operation, ...]) -> None:
    with pytest.raises(DataError, match="no image"):
        collect(network, operations, [], progress=Silent())


def test_inputs_that_are_always_zero_get_a_small_range_and_a_note(
    network: SmallNetwork, operations: tuple[Operation, ...], batches: list[Tensor], notes: Notes
) -> None:
    network.down.weight.data.zero_()
    network.get_parameter("down.bias").data.zero_()
    statistics = collect(network, operations, batches, progress=notes)
    for method in ("max", "entropy"):
        assert (
            solve(statistics, method, progress=notes, number_format=INT8)["up"] == INT8.floor_amax
        )
    assert notes.notes == ["zero on every calibration image: input of up"] * 2


@pytest.mark.parametrize("percentile", [None, 0.0, -1.0, 100.5, float("nan")])
def test_percentile_out_of_range(statistics: Statistics, percentile: Any) -> None:
    with pytest.raises(ConfigurationError, match="percentile is"):
        solve(
            statistics, "percentile", percentile=percentile, progress=Silent(), number_format=INT8
        )


def test_unknown_method_names_the_nearest(statistics: Statistics) -> None:
    with pytest.raises(ConfigurationError, match="did you mean 'entropy'"):
        solve(statistics, "entropie", progress=Silent(), number_format=INT8)  # type: ignore[arg-type]


def test_entropy_of_a_whole_detector_is_fast() -> None:
    generator = torch.Generator().manual_seed(0)
    histograms = {}
    for index in range(61):
        histograms[str(index)] = Histogram()
        histograms[str(index)].add(torch.randn(20000, generator=generator))
    started = time.process_time()
    amax = solve(
        Statistics(histograms=histograms, num_images=1),
        "entropy",
        progress=Silent(),
        number_format=INT8,
    )
    assert time.process_time() - started < 2.0  # seconds on one core
    assert np.all(np.array(list(amax.values())) > 0)
