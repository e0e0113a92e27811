from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from quantpipe.process_group import SingleProcess
from quantpipe.quantization.number_format import INT8
from quantpipe.quantization.scale_cache import TensorScale
from quantpipe.quantization.simulation.ranges import AveragedRange, LearnedRange
from quantpipe.training.range_updates import RangeUpdates


def activation(amax: float) -> TensorScale:
    return TensorScale(
        name="x.input", kind="activation", axis=None, amax=(amax,), number_format=INT8, method="max"
    )


class Other(SingleProcess):
    """A group whose other rank saw 5 and 0.5."""

    size = 2

    def all_reduce_max(self, values: Tensor) -> Tensor:
        return torch.maximum(values, torch.tensor([5.0, 0.5]))


def test_averages_follow_the_largest_value_of_all_ranks_until_they_are_frozen() -> None:
    ranges = [AveragedRange(activation(1.0), decay=0.5, frozen_fraction=0.5) for _ in range(2)]
    updates = RangeUpdates(nn.ModuleList(ranges))
    for averaged in ranges:
        averaged(torch.tensor([-2.0, 1.0]))
    updates.after_step(done=0.5, processes=Other())
    assert [averaged.average.item() for averaged in ranges] == [3.0, 1.5]
    for averaged in ranges:
        averaged(torch.tensor([-2.0, 1.0]))
    updates.after_step(done=0.6, processes=Other())
    assert [averaged.average.item() for averaged in ranges] == [3.0, 1.5]


def test_learned_ranges_stay_positive() -> None:
    learned = LearnedRange(activation(1.0), 1.0)
    learned.step.data.fill_(-1.0)
    RangeUpdates(nn.Sequential(learned)).after_step(done=0.1, processes=SingleProcess())
    assert learned.amax(None).item() == pytest.approx(1 / 128)


def test_a_float_network_has_nothing_to_update() -> None:
    RangeUpdates(nn.Conv2d(1, 1, 1)).after_step(done=0.1, processes=SingleProcess())
