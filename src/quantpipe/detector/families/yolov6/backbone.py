"""EfficientRep backbone (YOLOv6, arXiv 2209.02976, section 2.1)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from quantpipe.detector.families.yolov6.architecture import Architecture, BlockForm
from quantpipe.detector.families.yolov6.layers import ConvBnAct, RepRun, rep_block


class PyramidPooling(nn.Module):
    """Concatenates a map with its 5x5, 9x9 and 13x13 maxima (three 5x5 pools in a row)."""

    def __init__(self, channels: int, *, folded: bool):
        super().__init__()
        hidden = channels // 2
        self.cv1 = ConvBnAct(channels, hidden, 1, 1, nn.ReLU, folded=folded)
        self.cv2 = ConvBnAct(4 * hidden, channels, 1, 1, nn.ReLU, folded=folded)
        self.m = nn.MaxPool2d(kernel_size=5, stride=1, padding=2)

    def forward(self, x: Tensor) -> Tensor:
        """Maps (B, C, H, W) to the same shape."""
        maps = [self.cv1(x)]
        for _ in range(3):
            maps.append(self.m(maps[-1]))
        y: Tensor = self.cv2(torch.cat(maps, dim=1))
        return y


class SimSppf(nn.Module):
    """Holds the pyramid pooling under the name that released checkpoints give it."""

    def __init__(self, channels: int, *, folded: bool):
        super().__init__()
        self.sppf = PyramidPooling(channels, folded=folded)

    def forward(self, x: Tensor) -> Tensor:
        """Maps (B, C, H, W) to the same shape."""
        y: Tensor = self.sppf(x)
        return y


def _stage(form: BlockForm, in_channels: int, out_channels: int, depth: int) -> nn.Sequential:
    down = rep_block(form, in_channels, out_channels, 2)
    return nn.Sequential(down, RepRun(form, out_channels, out_channels, depth))


class Backbone(nn.Module):
    """A stem and four stages, each of which halves the resolution."""

    def __init__(self, architecture: Architecture, form: BlockForm):
        super().__init__()
        c1, c2, c3, c4, c5 = architecture.backbone_widths
        _, n2, n3, n4, n5 = architecture.backbone_depths
        self.stem = rep_block(form, 3, c1, 2)
        self.ERBlock_2 = _stage(form, c1, c2, n2)
        self.ERBlock_3 = _stage(form, c2, c3, n3)
        self.ERBlock_4 = _stage(form, c3, c4, n4)
        self.ERBlock_5 = _stage(form, c4, c5, n5)
        self.ERBlock_5.append(SimSppf(c5, folded=form == "deploy"))

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Maps images (B, 3, H, W) to C3, C4 and C5 at strides 8, 16 and 32."""
        c3 = self.ERBlock_3(self.ERBlock_2(self.stem(images)))
        c4 = self.ERBlock_4(c3)
        return c3, c4, self.ERBlock_5(c4)
