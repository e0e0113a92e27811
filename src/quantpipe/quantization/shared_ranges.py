"""Which operations must share an input range, found by watching the network run.

An engine joins the inputs of a concat without re-scaling them only where all have one scale. So
tensors that meet in a concat form one class, and so do a tensor and what is made of it by an
operation that commutes with a symmetric quantizer: it moves values, drops some, or puts zeros
between them (max-pool, ReLU, reshape, permute, slice, split, nearest up-sampling, zero padding).
Every operation that reads a tensor of a class takes part in the class's range.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from scipy.cluster.hierarchy import DisjointSet
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from quantpipe.quantization.operations import StorageNames, watch_inputs

_ATEN = torch.ops.aten

# Views need no entry: they share the memory of what they view.
_SHARING = {
    _ATEN.cat,
    _ATEN.stack,
    _ATEN.relu,
    _ATEN.max_pool2d,
    _ATEN.max_pool2d_with_indices,
    _ATEN.adaptive_max_pool2d,
    _ATEN.upsample_nearest2d,
    _ATEN.pixel_shuffle,
    _ATEN.pixel_unshuffle,
    _ATEN.constant_pad_nd,
    _ATEN.clone,
    _ATEN._to_copy,
    _ATEN._unsafe_view,
    _ATEN.index_select,
    _ATEN.repeat,
}


def _tensors(value: Any) -> list[Tensor]:
    if isinstance(value, Tensor):
        return [value] if value.is_floating_point() and value.numel() else []
    if isinstance(value, list | tuple):
        return [tensor for item in value for tensor in _tensors(item)]
    return []


class _SharingTrace(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Reports the floating-point tensors that a value-preserving operation links."""

    def __init__(self, link: Callable[[list[Tensor]], None]):
        super().__init__()  # type: ignore[no-untyped-call]
        self._link = link

    def __torch_dispatch__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        if func.overloadpacket in _SHARING:
            self._link([*_tensors(args[0]), *_tensors(result)])
        return result


def concat_groups(network: nn.Module, example: Tensor) -> tuple[frozenset[str], ...]:
    """Returns the groups of operations whose input ranges must be one.

    A group holds the operations that read a tensor of one class (module docstring), among them the
    operations that read the very same tensor. Groups of one are left out. An operation that reads
    several classes (a module called more than once) joins them.

    Args:
        network: In evaluation mode.
        example: One small image, (1, 3, H, W).
    """
    assert not network.training
    names, classes = StorageNames(), DisjointSet()
    readers: dict[str, int] = {}

    def join(numbers: Sequence[int]) -> None:
        for number in numbers:
            classes.add(number)
            classes.merge(numbers[0], number)

    def read(name: str, value: Tensor) -> None:
        number = names.storage(value)
        join([readers.setdefault(name, number), number])

    def link(tensors: list[Tensor]) -> None:
        if tensors:
            join([names.storage(tensor) for tensor in tensors])

    with watch_inputs(network, read), torch.no_grad(), _SharingTrace(link):
        network(example)
    groups: dict[int, list[str]] = {}
    for name, number in readers.items():
        groups.setdefault(classes[number], []).append(name)
    return tuple(frozenset(group) for group in groups.values() if len(group) > 1)


def unify(amax: Mapping[str, float], groups: Iterable[frozenset[str]]) -> dict[str, float]:
    """Returns ``amax`` with the largest value of each group given to all of the group."""
    unified = dict(amax)
    for group in groups:
        largest = max(amax[name] for name in group)
        unified.update(dict.fromkeys(group, largest))
    return unified
