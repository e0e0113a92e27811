from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, cast

import pytest
import torch
from torch import Tensor, nn

from quantpipe.errors import DataError, NumericalError
from quantpipe.progress import Silent
from quantpipe.quantization.damage import (
    gradient_sensitivity,
    network_outputs,
    output_projection,
    output_sensitivity,
)
from quantpipe.quantization.fake_quantize import quantize
from quantpipe.quantization.operations import Operation, find_operations
from quantpipe.quantization.precision_plan import PrecisionPlan
from quantpipe.quantization.scale_cache import ScaleCache

if TYPE_CHECKING:
    from tests.quantization.conftest import SmallNetwork


def predictions(network: nn.Module, images: Tensor) -> tuple[Tensor, Tensor]:
    found: tuple[Tensor, Tensor] = cast(Any, network).predict(images)
    return found


@pytest.fixture
def operations(network: SmallNetwork, batches: list[Tensor]) -> tuple[Operation, ...]:
    return find_operations(network, batches[0][:1])


def test_output_score_is_noise_over_signal(
    network: SmallNetwork,
    scales: ScaleCache,
    operations: tuple[Operation, ...],
    batches: list[Tensor],
) -> None:
    table = output_sensitivity(network, scales, operations, batches, progress=Silent())
    images = torch.cat(batches)
    row = next(row for row in table.rows if row.name == "down")
    alone = quantize(network, scales, PrecisionPlan(operations={"down": "int8"}, reason=""))
    with torch.no_grad():
        exact, noisy = network(images), alone(images)
    ratios = (noisy - exact).square().flatten(1).mean(1) / exact.square().flatten(1).mean(1)
    assert row.score == pytest.approx(float(ratios.mean()), rel=1e-3)
    assert row.standard_error == pytest.approx(float(ratios.std()) / math.sqrt(12), rel=1e-3)
    assert [r.score for r in table.rows] == sorted(r.score for r in table.rows)
    assert table.method == "output"


def test_gradient_score_is_gradient_times_error(
    network: SmallNetwork,
    scales: ScaleCache,
    operations: tuple[Operation, ...],
    batches: list[Tensor],
) -> None:
    """For the last operations dL/dz is known: with L = sum of z it is 1."""
    table = gradient_sensitivity(
        network,
        scales,
        operations,
        batches,
        loss=lambda outputs, _: outputs[0].sum() + 3.0 * outputs[1].sum(),
        outputs=predictions,
        progress=Silent(),
    )
    rows = {row.name: row for row in table.rows}
    for index, (name, factor) in enumerate((("left", 1.0), ("right", 9.0))):
        alone = quantize(network, scales, PrecisionPlan(operations={name: "int8"}, reason=""))
        with torch.no_grad():
            images = torch.cat(batches)
            error = alone.predict(images)[index] - network.predict(images)[index]
        per_image = factor * error.square().flatten(1).sum(dim=1)
        assert rows[name].score == pytest.approx(float(per_image.mean()), rel=1e-3)
        expected = float(per_image.std()) / math.sqrt(12)
        assert rows[name].standard_error == pytest.approx(expected, rel=1e-3)


def test_projection_gradient_is_a_finite_difference(
    network: SmallNetwork, batches: list[Tensor]
) -> None:
    images, bias = batches[0][:1].double(), network.double().get_parameter("down.bias")
    with torch.no_grad():
        norms = [output.norm() for output in network.predict(images)]

    def value() -> Tensor:
        generator = torch.Generator().manual_seed(3)
        terms = [
            (output * torch.randn(output.shape, generator=generator)).sum() / norm
            for output, norm in zip(network.predict(images), norms, strict=True)
        ]
        return torch.stack(terms).sum() / math.sqrt(2)

    (gradient,) = torch.autograd.grad(output_projection(3)(network.predict(images), 0), bias)
    with torch.no_grad():
        bias[1] += 1e-6
        above = value()
        bias[1] -= 2e-6
        difference = float(above - value()) / 2e-6
    assert float(gradient[1]) == pytest.approx(difference, rel=1e-4)


def test_projection_predicts_the_output_noise(
    network: SmallNetwork,
    scales: ScaleCache,
    operations: tuple[Operation, ...],
    batches: list[Tensor],
) -> None:
    arguments = (network, scales, operations, batches)
    measured = output_sensitivity(*arguments, outputs=predictions, progress=Silent())
    predicted = gradient_sensitivity(
        *arguments, outputs=predictions, loss=output_projection(0), progress=Silent()
    )
    scores = {row.name: row.score for row in predicted.rows}
    for row in measured.rows:
        assert 0.5 < scores[row.name] / row.score < 2.0, row.name


def test_equal_seeds_give_equal_tables(
    network: SmallNetwork,
    scales: ScaleCache,
    operations: tuple[Operation, ...],
    batches: list[Tensor],
) -> None:
    first, second, other = (
        gradient_sensitivity(
            network, scales, operations, batches, loss=output_projection(seed), progress=Silent()
        )
        for seed in (1, 1, 2)
    )
    assert first == second
    assert first != other


def test_the_network_is_left_as_it_was(
    network: SmallNetwork,
    scales: ScaleCache,
    operations: tuple[Operation, ...],
    batches: list[Tensor],
) -> None:
    gradient_sensitivity(
        network, scales, operations, batches, loss=output_projection(0), progress=Silent()
    )
    assert all(p.requires_grad and p.grad is None for p in network.parameters())
    assert len(network_outputs(network, batches[0])) == 1


def test_no_images_and_nan(
    network: SmallNetwork,
    scales: ScaleCache,
    operations: tuple[Operation, ...],
    batches: list[Tensor],
) -> None:
    with pytest.raises(DataError, match="no image"):
        output_sensitivity(network, scales, operations, [], progress=Silent())
    batches[1][2] = float("nan")
    with pytest.raises(NumericalError, match="image 6"):
        output_sensitivity(network, scales, operations, batches, progress=Silent())
    with pytest.raises(NumericalError, match="image 6"):
        gradient_sensitivity(
            network, scales, operations, batches, loss=output_projection(0), progress=Silent()
        )


def test_one_image_has_no_standard_error(
    network: SmallNetwork,
    scales: ScaleCache,
    operations: tuple[Operation, ...],
    batches: list[Tensor],
) -> None:
    table = output_sensitivity(network, scales, operations, [batches[0][:1]], progress=Silent())
    assert all(row.standard_error is None for row in table.rows)
