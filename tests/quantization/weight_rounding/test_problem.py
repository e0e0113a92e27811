from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch
from torch import Tensor, nn

from quantpipe.quantization.scale_cache import ScaleCache
from quantpipe.quantization.simulation.network import quantize, quantized_operations
from quantpipe.quantization.weight_rounding.matrix_form import matrix_form
from quantpipe.quantization.weight_rounding.problem import RoundingProblem, rounding_problem

if TYPE_CHECKING:
    from tests.quantization.conftest import SmallNetwork


def problem_of(
    name: str, network: nn.Module, scales: ScaleCache, inputs: Tensor, count: int = 10_000
) -> RoundingProblem:
    operation = quantized_operations(quantize(network, scales).requires_grad_(False))[name]
    form = matrix_form(network.get_submodule(name))
    assert form is not None
    with torch.no_grad():
        outputs = network.get_submodule(name)(inputs)
        return rounding_problem(operation, form, inputs, outputs, num_positions=count, seed=3)


@pytest.mark.parametrize("name", ["down", "up"])
def test_nearest_integers_give_what_fake_quantization_gives(
    name: str, network: SmallNetwork, scales: ScaleCache
) -> None:
    inputs = torch.rand(2, 8, 8, 8, generator=torch.Generator().manual_seed(2))
    problem = problem_of(name, network, scales, inputs)
    operation = quantized_operations(quantize(network, scales))[name]
    form = matrix_form(network.get_submodule(name))
    assert form is not None
    with torch.no_grad():
        expected = form.patches(inputs, operation(inputs), 10_000, seed=3).outputs
    found = problem.inputs @ (problem.nearest * problem.step[:, None]).T + problem.bias
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    exact = form.patches(inputs, network.get_submodule(name)(inputs), 10_000, seed=3).outputs
    torch.testing.assert_close(problem.outputs, exact)
    assert not torch.allclose(expected, exact, rtol=1e-4, atol=1e-5)


def test_the_largest_weight_of_each_range_is_fixed_and_so_are_zero_channels(
    network: SmallNetwork, scales: ScaleCache
) -> None:
    network.down.weight.data[3] = 0.0
    inputs = torch.rand(1, 8, 8, 8)
    fixed = problem_of("down", network, scales, inputs).fixed
    assert fixed.sum(dim=1).tolist() == [1, 1, 1, 72, 1, 1, 1, 1]
    largest = network.down.weight.detach().flatten(1).abs().argmax(dim=1)
    assert all(fixed[row, column] for row, column in enumerate(largest.tolist()))
    assert int(problem_of("up", network, scales, inputs).fixed.sum()) == 1
