"""Merging branches and BatchNorm into one convolution with a bias.

Sums are taken in float64, so the merged kernel is the float32 nearest to the exact one.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F  # noqa: N812 (its name everywhere)
from torch import Tensor, nn

from quantpipe.detector.families.yolov6.layers import (
    ConvBn,
    ConvBnAct,
    LinearAddBlock,
    RepOptBlock,
    RepVggBlock,
)


class Kernel(NamedTuple):
    """A convolution: weight (C_out, C_in, k, k) and bias (C_out,)."""

    weight: Tensor
    bias: Tensor


def fold_conv_bn(weight: Tensor, bn: nn.BatchNorm2d) -> Kernel:
    """Folds the running statistics of ``bn`` into the convolution before it, in float64."""
    assert bn.running_mean is not None
    assert bn.running_var is not None
    factor = bn.weight.double() / torch.sqrt(bn.running_var.double() + bn.eps)
    bias = bn.bias.double() - bn.running_mean.double() * factor
    return Kernel(weight.double() * factor.view(-1, 1, 1, 1), bias)


def identity_kernel(like: Tensor) -> Tensor:
    """Returns the 3x3 kernel (C, C, 3, 3) that maps every channel to itself, in float64."""
    channels = like.shape[0]
    kernel = torch.zeros(channels, channels, 3, 3, dtype=torch.float64, device=like.device)
    kernel[torch.arange(channels), torch.arange(channels), 1, 1] = 1.0
    return kernel


def pad_to_3x3(weight: Tensor) -> Tensor:
    """Returns a 1x1 kernel (C_out, C_in, 1, 1) as the center tap of a 3x3 one."""
    return F.pad(weight, (1, 1, 1, 1))


def merge_rep_vgg(block: RepVggBlock) -> Kernel:
    """Merges the branches of a RepVGG block (arXiv 2101.03697, section 3.3), in float64."""
    dense = _fold_branch(block.rbr_dense)
    point = _fold_branch(block.rbr_1x1)
    weight, bias = dense.weight + pad_to_3x3(point.weight), dense.bias + point.bias
    if block.rbr_identity is not None:
        identity = fold_conv_bn(identity_kernel(dense.weight), block.rbr_identity)
        weight, bias = weight + identity.weight, bias + identity.bias
    return Kernel(weight, bias)


def linear_add_weight(block: LinearAddBlock) -> Tensor:
    """Returns ``s3 * W3 + pad(s1 * W1) + diag(sid)``, (C_out, C_in, 3, 3) in float64.

    Source: RepOptimizer, arXiv 2205.15242, section 3.2.
    """
    weight = _scaled(block.conv.weight, block.scale_conv.weight)
    weight = weight + pad_to_3x3(_scaled(block.conv_1x1.weight, block.scale_1x1.weight))
    if block.scale_identity is not None:
        weight = weight + _scaled(identity_kernel(weight), block.scale_identity.weight)
    return weight


@torch.no_grad()
def folded_tensors(network: nn.Module) -> dict[str, Tensor]:
    """Returns the state dict of the deployed form of ``network``.

    Every merged convolution has a weight and a bias under the name that the deployed form gives
    it; all other tensors are copied. Nothing is shared with ``network``.
    """
    tensors: dict[str, Tensor] = {}
    merged: list[str] = []
    for path, module in network.named_modules():
        kernel = _merge(module)
        if kernel is None:
            continue
        merged.append(f"{path}.")
        name = f"{path}.block.conv" if isinstance(module, ConvBnAct) else f"{path}.conv"
        dtype = next(module.parameters()).dtype
        tensors[f"{name}.weight"] = kernel.weight.to(dtype)
        tensors[f"{name}.bias"] = kernel.bias.to(dtype)
    for name, tensor in network.state_dict().items():
        if not name.startswith(tuple(merged)):
            tensors[name] = tensor.clone()
    return tensors


def _merge(module: nn.Module) -> Kernel | None:
    match module:
        case RepVggBlock():
            return merge_rep_vgg(module)
        case LinearAddBlock():
            return fold_conv_bn(linear_add_weight(module), module.bn)
        case RepOptBlock():
            return fold_conv_bn(module.conv.weight, module.bn)
        case ConvBnAct():
            return _merge_conv_bn_act(module)
        case _:
            return None


def _merge_conv_bn_act(module: ConvBnAct) -> Kernel | None:
    conv, norm = module.block.conv, module.block[1]
    if not isinstance(norm, nn.BatchNorm2d):
        return None
    assert isinstance(conv, nn.Conv2d)
    return fold_conv_bn(conv.weight, norm)


def _fold_branch(branch: ConvBn) -> Kernel:
    return fold_conv_bn(branch.conv.weight, branch.bn)


def _scaled(weight: Tensor, scale: Tensor) -> Tensor:
    return weight.double() * scale.double().view(-1, 1, 1, 1)
