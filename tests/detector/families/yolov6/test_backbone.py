from __future__ import annotations

import torch
import torch.nn.functional as F  # noqa: N812 (its name everywhere)

from quantpipe.detector.families.yolov6.architecture import Architecture
from quantpipe.detector.families.yolov6.backbone import Backbone, PyramidPooling


def test_levels_lie_at_strides_8_16_32(architecture: Architecture) -> None:
    outputs = Backbone(architecture, "repopt")(torch.rand(1, 3, 64, 96))
    assert [tuple(y.shape) for y in outputs] == [
        (1, 32, 8, 12),
        (1, 64, 4, 6),
        (1, 128, 2, 3),
    ]


def test_pyramid_pooling_concatenates_growing_maxima() -> None:
    pooling = PyramidPooling(16, folded=True).eval()
    seen: list[torch.Tensor] = []
    pooling.cv2.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    x = torch.rand(1, 16, 20, 18)
    pooling(x)
    start = pooling.cv1(x)
    windows = [F.max_pool2d(start, size, stride=1, padding=size // 2) for size in (5, 9, 13)]
    torch.testing.assert_close(seen[0], torch.cat([start, *windows], dim=1), rtol=0, atol=0)
