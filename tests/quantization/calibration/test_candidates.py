from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from quantpipe.errors import Interrupted, NumericalError
from quantpipe.progress import Silent
from quantpipe.quantization.calibration.candidates import (
    RangeDegradations,
    candidate_ranges,
    chosen_ranges,
    range_degradations,
)
from quantpipe.quantization.calibration.collect import collect
from quantpipe.quantization.number_format import INT8
from quantpipe.quantization.operations import find_operations
from quantpipe.quantization.output_error import OUTPUT_ERRORS
from quantpipe.quantization.random_projection import projected, random_signs
from quantpipe.quantization.shared_ranges import concat_groups
from quantpipe.quantization.simulation.rounding import fake_quantize

if TYPE_CHECKING:
    from tests.quantization.conftest import SmallNetwork


def outputs(network: nn.Module, images: Tensor) -> Sequence[Tensor]:
    predicted: Sequence[Tensor] = network.predict(images)  # type: ignore[operator]
    return predicted


NOISE = OUTPUT_ERRORS["noise"]
SEED = 3


def weighed(
    network: SmallNetwork, batches: list[Tensor]
) -> tuple[RangeDegradations, dict[str, dict[str, float]]]:
    operations = find_operations(network, batches[0][:1])
    groups = concat_groups(network, batches[0][:1])
    statistics = collect(network, operations, batches, progress=Silent())
    candidates = candidate_ranges(statistics, groups, number_format=INT8)
    degradations = range_degradations(
        network,
        operations,
        groups,
        candidates,
        batches,
        outputs=outputs,
        error=NOISE,
        seed=SEED,
        progress=Silent(),
        number_format=INT8,
    )
    return degradations, candidates


def test_degradations_are_those_of_quantizing_every_value(
    network: SmallNetwork, batches: list[Tensor]
) -> None:
    """``left`` and ``right`` read one tensor; their gradients add up."""
    degradations, candidates = weighed(network, batches)
    expected = []
    for number, images in enumerate(batches):
        with torch.no_grad():
            seen: list[Tensor] = []
            handle = network.left.register_forward_pre_hook(lambda _, i: seen.append(i[0]))  # noqa: B023
            network(images)
            handle.remove()
        x = seen[0].clone().requires_grad_(True)
        found = (network.left(x), network.right(x))
        signs = random_signs(found, 4 * number, 0, SEED)
        projected(found, NOISE, signs).backward()  # type: ignore[no-untyped-call]
        assert x.grad is not None
        rows = []
        for label in degradations.labels:
            amax = candidates[label]["left"]
            error = fake_quantize(x.detach(), torch.tensor([amax]), None, INT8) - x.detach()
            rows.append((x.grad * error).double().square().flatten(1).sum(dim=1))
        expected.append(torch.stack(rows, dim=1))
    group = next(i for i, g in enumerate(degradations.groups) if "left" in g)
    assert degradations.groups[group] == {"left", "right"}
    torch.testing.assert_close(
        torch.from_numpy(degradations.values[:, group]), torch.cat(expected), rtol=0.05, atol=1e-7
    )


def test_every_operation_gets_the_range_of_its_group(
    network: SmallNetwork, batches: list[Tensor]
) -> None:
    degradations, candidates = weighed(network, batches)
    assert degradations.values.shape == (12, len(degradations.groups), len(candidates))
    labels = degradations.least()
    amax = chosen_ranges(candidates, labels)
    assert set(amax) == {o.name for o in find_operations(network, batches[0][:1])}
    for group in degradations.groups:
        assert len({labels[name] for name in group}) == 1
        assert len({amax[name] for name in group}) == 1


class OneConvolution(nn.Module):
    """Channel 0 holds an outlier in every image; ``weight`` decides whether anybody cares."""

    def __init__(self, weight_of_outlier: float):
        super().__init__()
        self.conv = nn.Conv2d(3, 1, 1, bias=False)
        with torch.no_grad():
            self.conv.weight.copy_(torch.tensor([weight_of_outlier, 1.0, 1.0]).reshape(1, 3, 1, 1))

    def predict(self, images: Tensor) -> tuple[Tensor, ...]:
        return (self.conv(images),)

    def forward(self, images: Tensor) -> Tensor:
        return self.predict(images)[0]


@pytest.mark.parametrize(("weight", "clips"), [(0.0, True), (1.0, False)])
def test_it_clips_where_nobody_reads_what_is_clipped(weight: float, clips: bool) -> None:
    network = OneConvolution(weight).eval()
    images = torch.rand(6, 3, 16, 16, generator=torch.Generator().manual_seed(2))
    images[:, 0, 3, 3:7] = 2.0
    operations = find_operations(network, images[:1])
    statistics = collect(network, operations, [images], progress=Silent())
    candidates = candidate_ranges(statistics, (), number_format=INT8)
    degradations = range_degradations(
        network,
        operations,
        (),
        candidates,
        [images],
        outputs=outputs,
        error=NOISE,
        seed=SEED,
        progress=Silent(),
        number_format=INT8,
    )
    (amax,) = chosen_ranges(candidates, degradations.least()).values()
    assert (amax < 1.5) is clips


def test_other_images_may_choose_otherwise() -> None:
    values = np.array([[[1.0, 3.0]], [[1.0, 3.0]], [[9.0, 2.0]]])
    degradations = RangeDegradations(
        operations=("conv",),
        labels=("a", "b"),
        groups=(frozenset({"conv"}),),
        values=values,
    )
    assert degradations.least() == {"conv": "b"}
    assert degradations.least(np.array([0, 1, 1])) == {"conv": "a"}


def test_choices_stand_in_the_order_of_the_operations() -> None:
    """The order of a set differs from process to process, and a scale cache's digest with it."""
    names = tuple(f"layer{number}.conv" for number in range(50))
    degradations = RangeDegradations(
        operations=names,
        labels=("a", "b"),
        groups=(frozenset(names[10:]), *(frozenset({name}) for name in names[:10])),
        values=np.zeros((1, 11, 2)),
    )
    assert tuple(degradations.least()) == names


def test_weights_and_hooks_are_left_alone(network: SmallNetwork, batches: list[Tensor]) -> None:
    weighed(network, batches)
    assert all(parameter.grad is None for parameter in network.parameters())
    assert not any(module._forward_pre_hooks for module in network.modules())


def test_a_gradient_that_is_not_finite_names_the_image(
    network: SmallNetwork, batches: list[Tensor]
) -> None:
    operations = find_operations(network, batches[0][:1])
    groups = concat_groups(network, batches[0][:1])
    statistics = collect(network, operations, batches, progress=Silent())

    def broken(network: nn.Module, images: Tensor) -> Sequence[Tensor]:
        factors = torch.tensor([1, 1, torch.nan, 1]).reshape(-1, 1, 1, 1)
        return [output * factors for output in outputs(network, images)]

    with pytest.raises(NumericalError, match="image 2"):
        range_degradations(
            network,
            operations,
            groups,
            candidate_ranges(statistics, groups, number_format=INT8),
            batches,
            outputs=broken,
            error=NOISE,
            seed=SEED,
            progress=Silent(),
            number_format=INT8,
        )


def test_it_stops_when_asked(network: SmallNetwork, batches: list[Tensor]) -> None:
    class Stopping(Silent):
        def should_stop(self) -> bool:
            return True

    operations = find_operations(network, batches[0][:1])
    groups = concat_groups(network, batches[0][:1])
    statistics = collect(network, operations, batches, progress=Silent())
    with pytest.raises(Interrupted):
        range_degradations(
            network,
            operations,
            groups,
            candidate_ranges(statistics, groups, number_format=INT8),
            batches,
            outputs=outputs,
            error=NOISE,
            seed=SEED,
            progress=Stopping(),
            number_format=INT8,
        )
