from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from quantpipe.process_group import SingleProcess
from quantpipe.training.sync_batch_norm import SyncBatchNorm, synchronize_batch_norm


def fixed(seed: int = 0) -> nn.BatchNorm2d:
    torch.manual_seed(seed)
    norm = nn.BatchNorm2d(5, eps=1e-3, momentum=0.03)
    nn.init.uniform_(norm.weight)
    nn.init.uniform_(norm.bias)
    return norm


def test_alone_it_is_torchs_batch_norm() -> None:
    """Output, gradients and running statistics."""
    ours, theirs = SyncBatchNorm(fixed(), SingleProcess()), fixed()
    values = torch.randn(4, 5, 6, 7) * 3 + 2
    first, second = (values.clone().requires_grad_() for _ in range(2))
    weights = torch.randn(4, 5, 6, 7)
    got, wanted = ours(first), theirs(second)
    torch.testing.assert_close(got, wanted, rtol=1e-5, atol=1e-5)
    (got * weights).sum().backward()
    (wanted * weights).sum().backward()
    assert first.grad is not None
    torch.testing.assert_close(first.grad, second.grad, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(ours.weight.grad, theirs.weight.grad, rtol=1e-4, atol=1e-4)
    for name, buffer in theirs.named_buffers():
        torch.testing.assert_close(ours.get_buffer(name), buffer)


def test_it_is_torchs_in_evaluation_mode() -> None:
    norm = fixed()
    values = torch.randn(2, 5, 3, 3)
    assert torch.equal(SyncBatchNorm(norm, SingleProcess()).eval()(values), norm.eval()(values))


def test_a_network_keeps_its_names_and_its_tensors() -> None:
    network = nn.Sequential(nn.Conv2d(3, 5, 1), nn.Sequential(fixed()))
    before: dict[str, Tensor] = dict(network.state_dict(keep_vars=True))
    names = copy.copy(list(before))
    synchronize_batch_norm(network, SingleProcess())
    after = network.state_dict(keep_vars=True)
    assert list(after) == names
    assert all(after[name] is tensor for name, tensor in before.items())
    assert type(network[1][0]) is SyncBatchNorm  # type: ignore[index]
