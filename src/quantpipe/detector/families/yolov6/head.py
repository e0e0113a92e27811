"""Decoupled, anchor-free head (YOLOv6, arXiv 2209.02976, section 2.1)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from quantpipe.detector.families.yolov6.layers import ConvBnAct


class Head(nn.Module):
    """Predicts, for every cell of every level, class logits and the distances to a box's sides."""

    proj: Tensor

    def __init__(self, channels: Sequence[int], num_classes: int, *, folded: bool):
        super().__init__()
        self.stems = nn.ModuleList(_silu_conv(c, 1, folded=folded) for c in channels)
        self.cls_convs = nn.ModuleList(_silu_conv(c, 3, folded=folded) for c in channels)
        self.reg_convs = nn.ModuleList(_silu_conv(c, 3, folded=folded) for c in channels)
        self.cls_preds = nn.ModuleList(nn.Conv2d(c, num_classes, 1) for c in channels)
        self.reg_preds = nn.ModuleList(nn.Conv2d(c, 4, 1) for c in channels)
        # Released checkpoints hold these two even where distances are predicted directly: they keep
        # the names of the state dict whole and take no part in the computation.
        self.register_buffer("proj", torch.zeros(1))
        self.proj_conv = nn.Conv2d(1, 1, 1, bias=False).requires_grad_(False)

    def forward(self, features: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """Predicts from P3, P4 and P5, each (B, C_i, H_i, W_i).

        Returns:
            Class logits (B, classes, A) and distances (B, 4, A) in cells: left, top, right,
            bottom. A counts the cells of all levels, level by level and row by row.
        """
        logits, distances = [], []
        for level, feature in enumerate(features):
            stem = self.stems[level](feature)
            logits.append(self.cls_preds[level](self.cls_convs[level](stem)).flatten(2))
            distances.append(self.reg_preds[level](self.reg_convs[level](stem)).flatten(2))
        return torch.cat(logits, dim=2), torch.cat(distances, dim=2)


def _silu_conv(channels: int, kernel: int, *, folded: bool) -> ConvBnAct:
    return ConvBnAct(channels, channels, kernel, 1, nn.SiLU, folded=folded)
