"""SGD over three kinds of parameters, and gradient masks."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from quantpipe.training.rates import Rates

_WEIGHTS, _VECTORS, _BIASES = "weights", "vectors", "biases"


def build_sgd(
    network: nn.Module, *, lr: float, momentum: float, nesterov: bool, weight_decay: float
) -> torch.optim.SGD:
    """Returns fused SGD over the trainable parameters, its momentum buffers made and zero.

    Kernels decay; biases, and vectors that scale channels (BatchNorm, linear-add blocks), do not. A
    zero buffer and no buffer give the same first step, and a zero one can be saved and restored.
    """
    kinds: dict[str, list[nn.Parameter]] = {_WEIGHTS: [], _VECTORS: [], _BIASES: []}
    for name, parameter in network.named_parameters():
        if parameter.requires_grad:
            kinds[_kind(name, parameter)].append(parameter)
    assert any(kinds.values()), "every parameter is frozen"
    groups = [
        {"params": parameters, "kind": kind, "weight_decay": weight_decay * (kind == _WEIGHTS)}
        for kind, parameters in kinds.items()
    ]
    optimizer = torch.optim.SGD(groups, lr=lr, momentum=momentum, nesterov=nesterov, fused=True)
    for parameter in (p for parameters in kinds.values() for p in parameters):
        optimizer.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
    return optimizer


def set_rates(optimizer: torch.optim.SGD, rates: Rates, step: int) -> None:
    """Sets learning rates and momentum for optimizer step ``step``, counted from 0."""
    for group in optimizer.param_groups:
        rate = rates.bias_lr if group["kind"] == _BIASES else rates.weight_lr
        group["lr"] = rate(step)
        group["momentum"] = rates.momentum_at(step)


def momentum_buffers(optimizer: torch.optim.SGD, network: nn.Module) -> dict[str, Tensor]:
    """Returns the live momentum buffers by parameter name."""
    return {
        name: optimizer.state[parameter]["momentum_buffer"]
        for name, parameter in network.named_parameters()
        if parameter.requires_grad
    }


def matched_masks(
    network: nn.Module, masks: Mapping[str, Tensor]
) -> list[tuple[nn.Parameter, Tensor]]:
    """Pairs parameters with their masks, on the same device and in the same memory order."""
    parameters = dict(network.named_parameters())
    return [(parameters[n], torch.empty_like(parameters[n]).copy_(m)) for n, m in masks.items()]


def mask_gradients(masks: list[tuple[nn.Parameter, Tensor]]) -> None:
    """Multiplies gradients by their masks. Weight decay is added later, by SGD, and stays whole."""
    for parameter, mask in masks:
        if parameter.grad is not None:
            parameter.grad.mul_(mask)


def _kind(name: str, parameter: nn.Parameter) -> str:
    if name.rpartition(".")[2] == "bias":
        return _BIASES
    return _WEIGHTS if parameter.ndim > 1 else _VECTORS
