"""BatchNorm whose batch is spread over the ranks of a process group, on processors and GPUs alike.

The statistics are those of the whole batch, so that training on several ranks is training on one
with the same global batch (Peng et al., "MegDet", arXiv 1711.07240, section 3.2).
``torch.nn.SyncBatchNorm`` computes the same on GPUs only.
"""

from __future__ import annotations

from typing import final

import torch
from torch import Tensor, nn

from quantpipe.process_group import ProcessGroup


@final
class SyncBatchNorm(nn.BatchNorm2d):
    """A BatchNorm2d with the parameters and buffers of another, and the sums of a process group."""

    def __init__(self, norm: nn.BatchNorm2d, processes: ProcessGroup):
        super().__init__(norm.num_features, eps=norm.eps, momentum=norm.momentum)
        self.weight, self.bias = norm.weight, norm.bias
        self.running_mean, self.running_var = norm.running_mean, norm.running_var
        self.num_batches_tracked = norm.num_batches_tracked
        self._processes = processes

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 - torch's name
        """Normalizes (B, C, H, W) by the statistics of all ranks' images together."""
        if not self.training:
            return super().forward(input)
        values = input.float()
        count = values.new_full((1,), values.numel() / self.num_features)
        sums = torch.cat([values.sum((0, 2, 3)), values.square().sum((0, 2, 3)), count])
        sums = self._processes.all_reduce_sum(sums)
        total = sums[-1]
        mean, square = (sums[:-1] / total).chunk(2)
        variance = (square - mean.square()).clamp_min(0)
        self._track(mean.detach(), variance.detach() * total.detach() / (total.detach() - 1))
        scale = self.weight * (variance + self.eps).rsqrt()
        shift = self.bias - mean * scale
        return (values * scale.view(1, -1, 1, 1) + shift.view(1, -1, 1, 1)).to(input.dtype)

    @torch.no_grad()
    def _track(self, mean: Tensor, unbiased: Tensor) -> None:
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.num_batches_tracked is not None
        assert self.momentum is not None
        self.running_mean.lerp_(mean, self.momentum)
        self.running_var.lerp_(unbiased, self.momentum)
        self.num_batches_tracked.add_(1)


def synchronize_batch_norm(network: nn.Module, processes: ProcessGroup) -> None:
    """Replaces every BatchNorm2d in place; names, parameters and buffers stay the same."""
    for parent in list(network.modules()):
        for name, child in parent.named_children():
            if type(child) is nn.BatchNorm2d:
                setattr(parent, name, SyncBatchNorm(child, processes).train(child.training))
