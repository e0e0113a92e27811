"""Building blocks of the detector: conv-bn-activation, and the 3x3 block in its four forms.

A 3x3 block maps C_in to C_out channels and ends in a ReLU. Its form decides which parameters make
up the one linear map before the ReLU: RepVGG branches (arXiv 2101.03697), the linear-add block of
RepOptimizer's hyper-search (arXiv 2205.15242), the plain conv-bn pair that RepOptimizer trains, or
the deployed convolution with a bias.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping

import torch
import torch.nn.functional as F  # noqa: N812 (its name everywhere)
from torch import Tensor, nn

from quantpipe.detector.families.yolov6.architecture import BlockForm

BATCH_NORM_EPS = 1e-3
BATCH_NORM_MOMENTUM = 0.03


def batch_norm(channels: int) -> nn.BatchNorm2d:
    """Returns a BatchNorm with YOLOv6's constants."""
    return nn.BatchNorm2d(channels, eps=BATCH_NORM_EPS, momentum=BATCH_NORM_MOMENTUM)


def _conv(
    in_channels: int, out_channels: int, kernel: int, stride: int, *, bias: bool
) -> nn.Conv2d:
    padding = kernel // 2
    return nn.Conv2d(in_channels, out_channels, kernel, stride, padding, bias=bias)


class ConvBnAct(nn.Module):
    """A convolution, its BatchNorm and an activation; folded: a convolution with a bias.

    Maps (B, C_in, H, W) to (B, C_out, H / stride, W / stride).
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel: int,
        stride: int,
        activation: type[nn.Module],
        *,
        folded: bool,
    ):
        super().__init__()
        parts: OrderedDict[str, nn.Module] = OrderedDict()
        parts["conv"] = _conv(in_channels, out_channels, kernel, stride, bias=folded)
        if not folded:
            parts["bn"] = batch_norm(out_channels)
        parts["act"] = activation()
        self.block = nn.Sequential(parts)

    def forward(self, x: Tensor) -> Tensor:
        """Applies the parts in order."""
        y: Tensor = self.block(x)
        return y


class DeployBlock(nn.Module):
    """The 3x3 block as it is deployed: a convolution with a bias, then ReLU."""

    def __init__(self, in_channels: int, out_channels: int, stride: int):
        super().__init__()
        self.conv = _conv(in_channels, out_channels, 3, stride, bias=True)
        self.act = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        """Maps (B, C_in, H, W) to (B, C_out, H / stride, W / stride)."""
        y: Tensor = self.act(self.conv(x))
        return y


class RepOptBlock(nn.Module):
    """The 3x3 block that RepOptimizer trains: a convolution without bias, BatchNorm, ReLU."""

    def __init__(self, in_channels: int, out_channels: int, stride: int):
        super().__init__()
        self.conv = _conv(in_channels, out_channels, 3, stride, bias=False)
        self.bn = batch_norm(out_channels)
        self.act = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        """Maps (B, C_in, H, W) to (B, C_out, H / stride, W / stride)."""
        y: Tensor = self.act(self.bn(self.conv(x)))
        return y


class ConvBn(nn.Module):
    """One branch of a RepVGG block: a convolution without bias and its BatchNorm."""

    def __init__(self, in_channels: int, out_channels: int, kernel: int, stride: int):
        super().__init__()
        self.conv = _conv(in_channels, out_channels, kernel, stride, bias=False)
        self.bn = batch_norm(out_channels)

    def forward(self, x: Tensor) -> Tensor:
        """Maps (B, C_in, H, W) to (B, C_out, H / stride, W / stride)."""
        y: Tensor = self.bn(self.conv(x))
        return y


class RepVggBlock(nn.Module):
    """The 3x3 block as RepVGG trains it: 3x3, 1x1 and identity branches, each with a BatchNorm.

    The identity branch is there only where C_in = C_out and the stride is 1.
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int):
        super().__init__()
        self.rbr_dense = ConvBn(in_channels, out_channels, 3, stride)
        self.rbr_1x1 = ConvBn(in_channels, out_channels, 1, stride)
        has_identity = in_channels == out_channels and stride == 1
        self.rbr_identity = batch_norm(in_channels) if has_identity else None
        self.act = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        """Maps (B, C_in, H, W) to (B, C_out, H / stride, W / stride)."""
        y: Tensor = self.rbr_dense(x) + self.rbr_1x1(x)
        if self.rbr_identity is not None:
            y = y + self.rbr_identity(x)
        activated: Tensor = self.act(y)
        return activated


class ChannelScale(nn.Module):
    """Multiplies every channel by a trained factor that starts at 1."""

    def __init__(self, channels: int):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))


class LinearAddBlock(nn.Module):
    """The 3x3 block of RepOptimizer's hyper-search: scaled branches, one BatchNorm, ReLU.

    Source: RepOptimizer, section 3.2. The identity branch is there only where C_in = C_out and the
    stride is 1. The branches are linear and meet in a sum, so they are computed as one convolution
    with the sum of their kernels; the gradient reaches every branch through that sum.
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int):
        super().__init__()
        self.conv = _conv(in_channels, out_channels, 3, stride, bias=False)
        self.scale_conv = ChannelScale(out_channels)
        self.conv_1x1 = _conv(in_channels, out_channels, 1, stride, bias=False)
        self.scale_1x1 = ChannelScale(out_channels)
        has_identity = in_channels == out_channels and stride == 1
        self.scale_identity = ChannelScale(out_channels) if has_identity else None
        self.bn = batch_norm(out_channels)
        self.act = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        """Maps (B, C_in, H, W) to (B, C_out, H / stride, W / stride)."""
        y = F.conv2d(x, self.merged_weight(), stride=self.conv.stride, padding=1)
        activated: Tensor = self.act(self.bn(y))
        return activated

    def merged_weight(self) -> Tensor:
        """Returns ``s3 * W3 + pad(s1 * W1) + diag(sid)``, (C_out, C_in, 3, 3)."""
        scale_3x3, scale_1x1 = self.scale_conv.weight, self.scale_1x1.weight
        center = self.conv_1x1.weight * scale_1x1.view(-1, 1, 1, 1)
        if self.scale_identity is not None:
            center = center + torch.diag(self.scale_identity.weight)[:, :, None, None]
        return self.conv.weight * scale_3x3.view(-1, 1, 1, 1) + F.pad(center, (1, 1, 1, 1))


_BLOCKS: Mapping[BlockForm, Callable[[int, int, int], nn.Module]] = {
    "repvgg": RepVggBlock,
    "linear_add": LinearAddBlock,
    "repopt": RepOptBlock,
    "deploy": DeployBlock,
}


def rep_block(form: BlockForm, in_channels: int, out_channels: int, stride: int) -> nn.Module:
    """Returns a 3x3 block of the given form."""
    return _BLOCKS[form](in_channels, out_channels, stride)


class RepRun(nn.Module):
    """A run of 3x3 blocks of stride 1; the first one changes the number of channels."""

    def __init__(self, form: BlockForm, in_channels: int, out_channels: int, depth: int):
        super().__init__()
        self.conv1 = rep_block(form, in_channels, out_channels, 1)
        self.block = nn.Sequential(
            *(rep_block(form, out_channels, out_channels, 1) for _ in range(depth - 1))
        )

    def forward(self, x: Tensor) -> Tensor:
        """Maps (B, C_in, H, W) to (B, C_out, H, W)."""
        y: Tensor = self.block(self.conv1(x))
        return y
