import math

import pytest
import torch
from torch import nn

from quantpipe.training.ema import MovingAverage, ema_decay


def test_decay_ramps_up() -> None:
    assert ema_decay(1, decay=0.9999, ramp_steps=2000) == pytest.approx(
        0.9999 * (1 - math.exp(-1 / 2000))
    )
    assert ema_decay(10**6, decay=0.9999, ramp_steps=2000) == pytest.approx(0.9999)
    assert ema_decay(1, decay=0.5, ramp_steps=0) == 0.5


def test_average_is_the_recurrence_for_parameters_and_buffers() -> None:
    network = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2))
    average = MovingAverage(network, decay=0.9, ramp_steps=3.0)
    expected = {name: t.clone() for name, t in network.state_dict().items()}
    for step in range(1, 6):
        with torch.no_grad():
            for tensor in network.state_dict().values():
                tensor.add_(step)
        average.update(step)
        decay = 0.9 * (1 - math.exp(-step / 3))
        for name, tensor in network.state_dict().items():
            is_float = tensor.is_floating_point()
            blended = decay * expected[name] + (1 - decay) * tensor
            expected[name] = blended if is_float else tensor.clone()
    for name, tensor in average.network.state_dict().items():
        torch.testing.assert_close(tensor, expected[name])


def test_average_is_frozen_in_evaluation_mode_and_keeps_the_memory_order() -> None:
    network = nn.Conv2d(4, 8, 3)
    network.weight.data = network.weight.data.to(memory_format=torch.channels_last)
    average = MovingAverage(network, decay=0.9, ramp_steps=3.0).network
    assert not average.training
    assert network.training
    assert not any(parameter.requires_grad for parameter in average.parameters())
    assert average.get_parameter("weight").stride() == network.weight.stride()
