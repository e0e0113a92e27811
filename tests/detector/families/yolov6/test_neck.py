from __future__ import annotations

import pytest
import torch
from torch import Tensor

from quantpipe.detector.families.yolov6.architecture import Architecture
from quantpipe.detector.families.yolov6.neck import Neck


@pytest.fixture
def inputs() -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    shapes = ((1, 32, 8, 12), (1, 64, 4, 6), (1, 128, 2, 3))
    c3, c4, c5 = (torch.rand(shape, generator=generator) for shape in shapes)
    return c3, c4, c5


def test_outputs_lie_at_strides_8_16_32(
    architecture: Architecture, inputs: tuple[Tensor, Tensor, Tensor]
) -> None:
    outputs = Neck(architecture, "repvgg")(*inputs)
    assert [tuple(y.shape) for y in outputs] == [(1, 16, 8, 12), (1, 32, 4, 6), (1, 64, 2, 3)]


@pytest.mark.parametrize(
    ("run", "first", "second"),
    [
        ("Rep_p4", "upsample0", "c4"),
        ("Rep_p3", "upsample1", "c3"),
        ("Rep_n3", "downsample2", "reduce_layer1"),
        ("Rep_n4", "downsample1", "reduce_layer0"),
    ],
)
def test_concats_have_the_documented_order(
    architecture: Architecture,
    inputs: tuple[Tensor, Tensor, Tensor],
    run: str,
    first: str,
    second: str,
) -> None:
    neck = Neck(architecture, "deploy")
    tensors = dict(zip(("c3", "c4", "c5"), inputs, strict=True))

    def remember(name: str, tensor: Tensor) -> None:
        tensors[name] = tensor

    for name, module in neck.named_children():
        module.register_forward_hook(lambda m, x, y, name=name: remember(name, y))
    neck.get_submodule(run).register_forward_pre_hook(lambda m, x: remember("input", x[0]))
    neck(*inputs)
    expected = torch.cat([tensors[first], tensors[second]], dim=1)
    torch.testing.assert_close(tensors["input"], expected, rtol=0, atol=0)
