"""In which order images and kernels lie in memory."""

from __future__ import annotations

import torch
from torch import nn

from quantpipe.detector.families.yolov6.layers import ConvBn

# oneDNN's backward pass of a strided 1x1 convolution writes past its workspace for channels-last
# float32 images of fewer channels than this (uxlfoundation/oneDNN issue 6035): the heap is damaged.
_SAFE_CHANNELS = 16


def memory_order(
    network: nn.Module, *, channels_last: bool, device: torch.device
) -> torch.memory_format:
    """Returns the order to train ``network`` in: as asked for, unless that would crash.

    Only the 1x1 branches of RepVGG blocks are strided; linear-add blocks merge theirs into the 3x3
    kernel.
    """
    if not channels_last or (device.type == "cpu" and _has_unsafe_branch(network)):
        return torch.contiguous_format
    return torch.channels_last


def _has_unsafe_branch(network: nn.Module) -> bool:
    convs = [module.conv for module in network.modules() if isinstance(module, ConvBn)]
    return any(
        conv.kernel_size == (1, 1) and conv.stride != (1, 1) and conv.in_channels < _SAFE_CHANNELS
        for conv in convs
    )
