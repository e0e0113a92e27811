"""What happens to trained ranges after an optimizer step."""

from __future__ import annotations

import torch
from torch import nn

from quantpipe.process_group import ProcessGroup
from quantpipe.quantization.simulation.ranges import AveragedRange, LearnedRange


class RangeUpdates:
    """The trained ranges of a network; none in one that is not quantized, or to fixed ranges."""

    def __init__(self, network: nn.Module):
        modules = list(network.modules())
        self._learned = [module for module in modules if isinstance(module, LearnedRange)]
        self._averaged = [module for module in modules if isinstance(module, AveragedRange)]

    def after_step(self, *, done: float, processes: ProcessGroup) -> None:
        """Keeps learned ranges positive; moves averaged ones to the largest values of the step.

        Args:
            done: The part of the training that is over.
            processes: The ranks that shared the step; all of them end with the same ranges.
        """
        for learned in self._learned:
            learned.keep_positive()
        if self._averaged:
            largest = processes.all_reduce_max(
                torch.cat([averaged.seen for averaged in self._averaged])
            )
            for averaged, value in zip(self._averaged, largest, strict=True):
                averaged.follow(value, done=done)
