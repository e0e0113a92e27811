"""Rep-PAN neck (YOLOv6, arXiv 2209.02976, section 2.1)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from quantpipe.detector.families.yolov6.architecture import Architecture, BlockForm
from quantpipe.detector.families.yolov6.layers import ConvBnAct, RepRun


class Upsample(nn.Module):
    """Doubles the resolution by a transposed 2x2 convolution with a bias."""

    def __init__(self, channels: int):
        super().__init__()
        self.upsample_transpose = nn.ConvTranspose2d(channels, channels, 2, stride=2, bias=True)

    def forward(self, x: Tensor) -> Tensor:
        """Maps (B, C, H, W) to (B, C, 2H, 2W)."""
        y: Tensor = self.upsample_transpose(x)
        return y


class Neck(nn.Module):
    """Carries context down from C5 to C3 and position up again to stride 32."""

    def __init__(self, architecture: Architecture, form: BlockForm):
        super().__init__()
        folded = form == "deploy"
        _, _, c3, c4, c5 = architecture.backbone_widths
        p4, p3, d2, n3, d1, n4 = architecture.neck_widths
        depth_p4, depth_p3, depth_n3, depth_n4 = architecture.neck_depths
        self.reduce_layer0 = ConvBnAct(c5, p4, 1, 1, nn.ReLU, folded=folded)
        self.upsample0 = Upsample(p4)
        self.Rep_p4 = RepRun(form, c4 + p4, p4, depth_p4)
        self.reduce_layer1 = ConvBnAct(p4, p3, 1, 1, nn.ReLU, folded=folded)
        self.upsample1 = Upsample(p3)
        self.Rep_p3 = RepRun(form, c3 + p3, p3, depth_p3)
        self.downsample2 = ConvBnAct(p3, d2, 3, 2, nn.ReLU, folded=folded)
        self.Rep_n3 = RepRun(form, d2 + p3, n3, depth_n3)
        self.downsample1 = ConvBnAct(n3, d1, 3, 2, nn.ReLU, folded=folded)
        self.Rep_n4 = RepRun(form, d1 + p4, n4, depth_n4)

    def forward(self, c3: Tensor, c4: Tensor, c5: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Maps backbone outputs to P3, P4 and P5 at strides 8, 16 and 32."""
        reduced5 = self.reduce_layer0(c5)
        p4 = self.Rep_p4(torch.cat([self.upsample0(reduced5), c4], dim=1))
        reduced4 = self.reduce_layer1(p4)
        p3 = self.Rep_p3(torch.cat([self.upsample1(reduced4), c3], dim=1))
        n3 = self.Rep_n3(torch.cat([self.downsample2(p3), reduced4], dim=1))
        n4 = self.Rep_n4(torch.cat([self.downsample1(n3), reduced5], dim=1))
        return p3, n3, n4
