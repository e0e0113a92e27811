from __future__ import annotations

import torch
from torch import nn

from quantpipe.detector.families.yolov6.head import Head


def test_levels_follow_one_another_row_by_row() -> None:
    head = Head((8, 8, 8), 2, folded=True)
    shapes = ((4, 6), (2, 3), (1, 2))
    features = [torch.rand(1, 8, *shape) for shape in shapes]
    logits, distances = head(features)
    assert logits.shape == (1, 2, 32)
    assert distances.shape == (1, 4, 32)
    stem = head.stems[1](features[1])
    cell = head.cls_preds[1](head.cls_convs[1](stem))[0, :, 1, 2]
    torch.testing.assert_close(logits[0, :, 4 * 6 + 1 * 3 + 2], cell)
    cell = head.reg_preds[1](head.reg_convs[1](stem))[0, :, 1, 2]
    torch.testing.assert_close(distances[0, :, 4 * 6 + 1 * 3 + 2], cell)


def test_projection_takes_no_part() -> None:
    head = Head((8, 8, 8), 2, folded=False).eval()
    features = [torch.rand(1, 8, size, size) for size in (4, 2, 1)]
    before = head(features)
    nn.init.constant_(head.proj_conv.weight, float("nan"))
    head.proj.fill_(float("nan"))
    after = head(features)
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))
    assert not head.proj_conv.weight.requires_grad
