from typing import Any

import pytest
import torch
from torch import nn

from quantpipe.detector.families.yolov6.architecture import Architecture
from quantpipe.detector.families.yolov6.network import build_detector
from quantpipe.training.optimizer import (
    build_sgd,
    mask_gradients,
    matched_masks,
    momentum_buffers,
    set_rates,
)
from quantpipe.training.rates import Rates

SETTINGS: dict[str, Any] = {"lr": 0.1, "momentum": 0.9, "nesterov": True, "weight_decay": 0.5}


def test_only_kernels_decay_and_every_trainable_parameter_is_there(
    architecture: Architecture,
) -> None:
    network = build_detector(architecture, "linear_add", seed=0)
    names = {id(parameter): name for name, parameter in network.named_parameters()}
    weights, vectors, biases = (
        {names[id(p)] for p in group["params"]}
        for group in build_sgd(network, **SETTINGS).param_groups
    )
    assert "backbone.stem.conv.weight" in weights
    assert "neck.upsample0.upsample_transpose.weight" in weights
    assert {"backbone.stem.scale_conv.weight", "backbone.stem.bn.weight"} <= vectors
    assert {"backbone.stem.bn.bias", "detect.cls_preds.0.bias"} <= biases
    trainable = {name for name, p in network.named_parameters() if p.requires_grad}
    assert weights | vectors | biases == trainable
    assert "detect.proj_conv.weight" not in trainable


def test_decay_is_of_kernels_only() -> None:
    network = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2))
    decays = [group["weight_decay"] for group in build_sgd(network, **SETTINGS).param_groups]
    assert decays == [0.5, 0, 0]


def test_a_masked_step_leaves_weight_decay_whole() -> None:
    network = nn.Conv2d(1, 1, 1, bias=False)
    nn.init.constant_(network.weight, 2.0)
    optimizer = build_sgd(network, lr=0.1, momentum=0.0, nesterov=False, weight_decay=0.5)
    network.weight.grad = torch.full_like(network.weight, 3.0)
    mask_gradients(matched_masks(network, {"weight": torch.full((1, 1, 1, 1), 4.0)}))
    optimizer.step()
    assert network.weight.item() == pytest.approx(2.0 - 0.1 * (4.0 * 3.0 + 0.5 * 2.0))


def test_rates_follow_the_schedule() -> None:
    rates = Rates(
        total_steps=10,
        warmup_steps=4,
        lr=0.2,
        final_lr_fraction=0.1,
        momentum=0.9,
        warmup_momentum=0.5,
        warmup_bias_lr=0.3,
    )
    optimizer = build_sgd(nn.Conv2d(1, 1, 1), **SETTINGS)
    set_rates(optimizer, rates, 1)
    found = [group["lr"] for group in optimizer.param_groups]
    expected = rates.weight_lr(1)
    assert found == [expected, expected, rates.bias_lr(1)]
    assert {group["momentum"] for group in optimizer.param_groups} == {rates.momentum_at(1)}


@pytest.mark.parametrize("nesterov", [False, True])
def test_fused_steps_in_any_memory_order_are_those_of_plain_sgd(nesterov: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(8, 4, 3, 3, generator=generator)
    ours = nn.Conv2d(4, 8, 3, bias=False)
    ours.weight.data = ours.weight.data.to(memory_format=torch.channels_last)
    plain = nn.Conv2d(4, 8, 3, bias=False)
    for network in (ours, plain):
        network.weight.data.copy_(weight)
    fused = build_sgd(ours, lr=0.1, momentum=0.9, nesterov=nesterov, weight_decay=0.01)
    reference = torch.optim.SGD(
        plain.parameters(),
        lr=0.1,
        momentum=0.9,
        nesterov=nesterov,
        weight_decay=0.01,
        foreach=False,
    )
    assert not ours.weight.is_contiguous()
    for _ in range(3):
        images = torch.randn(2, 4, 8, 8, generator=generator)
        for network, optimizer in ((ours, fused), (plain, reference)):
            optimizer.zero_grad()
            network(images).square().mean().backward()
            optimizer.step()
    torch.testing.assert_close(ours.weight, plain.weight)
    buffer = momentum_buffers(fused, ours)["weight"]
    torch.testing.assert_close(buffer, reference.state[plain.weight]["momentum_buffer"])
