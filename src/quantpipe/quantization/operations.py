"""The operations of a network that can run in INT8, and what they read."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

OperationKind = Literal["conv", "conv_transpose", "max_pool"]

KINDS: Mapping[type[nn.Module], OperationKind] = {
    nn.Conv2d: "conv",
    nn.ConvTranspose2d: "conv_transpose",
    nn.MaxPool2d: "max_pool",
}


@dataclass(frozen=True, kw_only=True)
class Operation:
    """A module that can be quantized.

    Attributes:
        name: The module's path in the network.
        kind: What it computes.
        reads: One number per call of the module: which tensor the call read. Operations with equal
            ``reads`` read the very same tensors.
    """

    name: str
    kind: OperationKind
    reads: tuple[int, ...]


class StorageNames:
    """Numbers tensors by the memory they occupy, keeping it alive so that none is used twice."""

    def __init__(self) -> None:
        self._kept: list[Tensor] = []
        self._numbers: dict[tuple[Any, ...], int] = {}

    def tensor(self, value: Tensor) -> int:
        """Returns the number of exactly this tensor: memory, place in it, in-place version."""
        memory = value.untyped_storage().data_ptr()
        layout = (tuple(value.shape), value.stride(), value.storage_offset())
        return self._number(value, (memory, layout, value._version))

    def storage(self, value: Tensor) -> int:
        """Returns the number of the memory: equal for a tensor, its views and in-place results."""
        return self._number(value, (value.untyped_storage().data_ptr(),))

    def _number(self, value: Tensor, place: tuple[Any, ...]) -> int:
        self._kept.append(value)
        return self._numbers.setdefault(place, len(self._numbers))


def operation_modules(network: nn.Module) -> dict[str, nn.Module]:
    """Returns every quantizable module by path, used or not."""
    return {name: module for name, module in network.named_modules() if type(module) in KINDS}


@contextmanager
def watch_inputs(network: nn.Module, callback: Callable[[str, Tensor], None]) -> Iterator[None]:
    """Calls ``callback(name, input)`` before every call of a quantizable module."""

    def hook(name: str) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
        return lambda _, inputs: callback(name, inputs[0])

    handles = [
        module.register_forward_pre_hook(hook(name))
        for name, module in operation_modules(network).items()
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def find_operations(network: nn.Module, example: Tensor) -> tuple[Operation, ...]:
    """Returns the operations that ``network(example)`` runs, in execution order.

    A module that the network holds but never calls is no operation.

    Args:
        network: In evaluation mode.
        example: One small image, (1, 3, H, W); only which modules it passes matters.
    """
    assert not network.training
    names = StorageNames()
    reads: dict[str, list[int]] = {}

    def record(name: str, value: Tensor) -> None:
        reads.setdefault(name, []).append(names.tensor(value))

    with watch_inputs(network, record), torch.no_grad():
        network(example)
    modules = operation_modules(network)
    return tuple(
        Operation(name=name, kind=KINDS[type(modules[name])], reads=tuple(numbers))
        for name, numbers in reads.items()
    )
