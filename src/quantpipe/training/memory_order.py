"""In which order images and kernels lie in memory."""

from __future__ import annotations

from typing import cast

import torch
from torch import nn

from quantpipe.detector.families.implementation import DetectorNetwork


def memory_order(
    network: nn.Module, *, channels_last: bool, device: torch.device
) -> torch.memory_format:
    """Returns the order to train ``network`` in: as asked for, unless it cannot be."""
    if channels_last and cast(DetectorNetwork, network).may_use_channels_last(device):
        return torch.channels_last
    return torch.contiguous_format
