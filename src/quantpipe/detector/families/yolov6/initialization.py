"""First values of a detector's parameters, from an explicit seed."""

from __future__ import annotations

import math

import torch
from torch import nn

from quantpipe.detector.families.yolov6.head import Head
from quantpipe.detector.families.yolov6.layers import ChannelScale

CLASS_PRIOR = 0.01
"""Score of every class before training (focal-loss prior, arXiv 1708.02002, section 4.1)."""

PREDICTION_STD = 0.01
FIRST_DISTANCE = 1.0
"""Distance from a cell's center to each side of its box before training, in cells."""


@torch.no_grad()
def initialize(network: nn.Module, head: Head, *, seed: int) -> None:
    """Sets every parameter and buffer of ``network``, which may be uninitialized memory.

    Convolutions start as in He et al. (arXiv 1502.01852), the predictions with weights from
    N(0, 0.01) around the class prior and a distance of one cell.
    """
    generator = torch.Generator().manual_seed(seed)
    for module in network.modules():
        match module:
            case nn.Conv2d():
                _initialize_conv(module, generator)
            case nn.ConvTranspose2d():
                _initialize_transposed(module, generator)
            case nn.BatchNorm2d():
                module.reset_parameters()
            case ChannelScale():
                module.weight.fill_(1.0)
    _initialize_predictions(head, generator)


def _initialize_conv(conv: nn.Conv2d, generator: torch.Generator) -> None:
    nn.init.kaiming_normal_(conv.weight, nonlinearity="relu", generator=generator)
    if conv.bias is not None:
        conv.bias.zero_()


def _initialize_transposed(conv: nn.ConvTranspose2d, generator: torch.Generator) -> None:
    # Kernel and stride are both 2: an output pixel sees C_in products, not C_in * 4, and there is
    # no activation after it.
    nn.init.normal_(conv.weight, std=1 / math.sqrt(conv.in_channels), generator=generator)
    assert conv.bias is not None
    conv.bias.zero_()


def _initialize_predictions(head: Head, generator: torch.Generator) -> None:
    class_bias = -math.log((1 - CLASS_PRIOR) / CLASS_PRIOR)
    for preds, bias in ((head.cls_preds, class_bias), (head.reg_preds, FIRST_DISTANCE)):
        for conv in preds:
            assert isinstance(conv, nn.Conv2d)
            assert conv.bias is not None
            nn.init.normal_(conv.weight, std=PREDICTION_STD, generator=generator)
            conv.bias.fill_(bias)
    head.proj.zero_()
    head.proj_conv.weight.zero_()
