"""The exponential moving average of a network's parameters and buffers."""

from __future__ import annotations

import copy
import math

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn


def ema_decay(step: int, *, decay: float, ramp_steps: float) -> float:
    """Returns decay * (1 - exp(-step / ramp_steps)): young averages forget faster."""
    return decay * -math.expm1(-step / ramp_steps) if ramp_steps > 0 else decay


class MovingAverage:
    """A frozen copy of a network in evaluation mode that follows it slowly.

    Floating parameters and buffers (batch statistics too) are averaged, the others copied.
    """

    def __init__(self, network: nn.Module, *, decay: float, ramp_steps: float):
        self.network = copy.deepcopy(network).eval().requires_grad_(False)
        self._decay = decay
        self._ramp_steps = ramp_steps
        pairs = _matching_tensors(self.network, network)
        self._floating = [pair for pair in pairs if pair[0].is_floating_point()]
        self._others = [pair for pair in pairs if not pair[0].is_floating_point()]

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Moves toward the network as it is after optimizer step number ``step`` (from 1)."""
        decay = ema_decay(step, decay=self._decay, ramp_steps=self._ramp_steps)
        averages, values = (list(side) for side in zip(*self._floating, strict=True))
        move = get_ema_multi_avg_fn(decay)  # type: ignore[no-untyped-call]
        move(averages, values, step)
        for copied, value in self._others:
            copied.copy_(value)


def _matching_tensors(average: nn.Module, network: nn.Module) -> list[tuple[Tensor, Tensor]]:
    values = network.state_dict(keep_vars=True)
    pairs = [(t, values[name]) for name, t in average.state_dict(keep_vars=True).items()]
    return [(a.detach(), v.detach()) for a, v in pairs]
