from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F  # noqa: N812 (its name everywhere)
from torch import Tensor, nn

from quantpipe.detector.families.yolov6.architecture import BlockForm
from quantpipe.detector.families.yolov6.layers import (
    ConvBnAct,
    LinearAddBlock,
    RepOptBlock,
    RepRun,
    RepVggBlock,
    rep_block,
)


def _randomize(module: nn.Module) -> None:
    generator = torch.Generator().manual_seed(1)
    for name, tensor in module.state_dict().items():
        if tensor.is_floating_point():
            low = 0.5 if name.endswith("running_var") else -1.0
            nn.init.uniform_(tensor, low, 1.5, generator=generator)


def _normed(x: Tensor, bn: nn.BatchNorm2d) -> Tensor:
    """BatchNorm in evaluation by its definition, with YOLOv6's epsilon."""
    shape = (1, -1, 1, 1)
    assert bn.running_mean is not None
    assert bn.running_var is not None
    centered = x - bn.running_mean.view(shape)
    unit = centered / torch.sqrt(bn.running_var + 1e-3).view(shape)
    return unit * bn.weight.view(shape) + bn.bias.view(shape)


CASES = [(8, 8, 1), (8, 8, 2), (8, 16, 1), (3, 8, 2)]


@pytest.mark.parametrize(("c_in", "c_out", "stride"), CASES)
def test_rep_vgg_block_adds_its_normed_branches(c_in: int, c_out: int, stride: int) -> None:
    block = RepVggBlock(c_in, c_out, stride).eval()
    _randomize(block)
    x = torch.rand(2, c_in, 8, 10)
    dense = F.conv2d(x, block.rbr_dense.conv.weight, stride=stride, padding=1)
    point = torch.einsum("oi,bihw->bohw", block.rbr_1x1.conv.weight[:, :, 0, 0], x)
    total = _normed(dense, block.rbr_dense.bn)
    total = total + _normed(point[:, :, ::stride, ::stride], block.rbr_1x1.bn)
    if (c_in, stride) == (c_out, 1):
        assert block.rbr_identity is not None
        total = total + _normed(x, block.rbr_identity)
    else:
        assert block.rbr_identity is None
    torch.testing.assert_close(block(x), total.clamp(min=0), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("c_in", "c_out", "stride"), CASES)
def test_linear_add_block_norms_the_sum_of_scaled_branches(
    c_in: int, c_out: int, stride: int
) -> None:
    block = LinearAddBlock(c_in, c_out, stride).eval()
    _randomize(block)
    x = torch.rand(2, c_in, 8, 10)
    total = F.conv2d(x, block.conv.weight, stride=stride, padding=1)
    total = total * block.scale_conv.weight[:, None, None]
    point = torch.einsum("oi,bihw->bohw", block.conv_1x1.weight[:, :, 0, 0], x)
    total = total + (point * block.scale_1x1.weight[:, None, None])[:, :, ::stride, ::stride]
    if (c_in, stride) == (c_out, 1):
        assert block.scale_identity is not None
        total = total + x * block.scale_identity.weight[:, None, None]
    else:
        assert block.scale_identity is None
    expected = _normed(total, block.bn).clamp(min=0)
    torch.testing.assert_close(block(x), expected, rtol=1e-5, atol=1e-5)


def test_rep_opt_block_is_conv_norm_relu() -> None:
    block = RepOptBlock(8, 16, 2).eval()
    _randomize(block)
    x = torch.rand(2, 8, 8, 8)
    expected = _normed(F.conv2d(x, block.conv.weight, stride=2, padding=1), block.bn).clamp(min=0)
    torch.testing.assert_close(block(x), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("form", "names"),
    [
        (
            "repvgg",
            ["rbr_dense.conv", "rbr_dense.bn", "rbr_1x1.conv", "rbr_1x1.bn", "rbr_identity"],
        ),
        ("linear_add", ["conv", "scale_conv", "conv_1x1", "scale_1x1", "scale_identity", "bn"]),
        ("repopt", ["conv", "bn"]),
        ("deploy", ["conv"]),
    ],
)
def test_block_holds_the_documented_parameters(form: BlockForm, names: list[str]) -> None:
    parameters = [name for name, _ in rep_block(form, 8, 8, 1).named_parameters()]
    assert list(dict.fromkeys(name.rpartition(".")[0] for name in parameters)) == names
    has_conv_bias = any(name.endswith("conv.bias") for name in parameters)
    assert has_conv_bias == (form == "deploy")


@pytest.mark.parametrize("folded", [False, True])
def test_conv_bn_act(folded: bool) -> None:
    layer = ConvBnAct(8, 16, 3, 2, nn.SiLU, folded=folded).eval()
    _randomize(layer)
    conv, norm = layer.block.conv, layer.block[1]
    assert isinstance(conv, nn.Conv2d)
    x = torch.rand(2, 8, 8, 8)
    y = F.conv2d(x, conv.weight, conv.bias, stride=2, padding=1)
    if isinstance(norm, nn.BatchNorm2d):
        y = _normed(y, norm)
    torch.testing.assert_close(layer(x), y * torch.sigmoid(y), rtol=1e-5, atol=1e-5)
    assert isinstance(norm, nn.BatchNorm2d) == (conv.bias is None) == (not folded)


def test_batch_norm_momentum() -> None:
    block = RepOptBlock(3, 8, 1).train()
    with torch.no_grad():
        block.conv.weight.zero_()
        block(torch.ones(2, 3, 4, 4))
    torch.testing.assert_close(block.bn.running_var, torch.full((8,), 0.97))


def test_a_run_of_one_block_has_no_others() -> None:
    names = {name.split(".")[0] for name in RepRun("repopt", 8, 16, 1).state_dict()}
    assert names == {"conv1"}
    assert len(RepRun("repopt", 8, 16, 4).block) == 3
