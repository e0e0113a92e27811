"""A process group over torch.distributed: gloo between processors, NCCL between GPUs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, final

import torch
from torch import Tensor, distributed
from torch.distributed.distributed_c10d import Store

from quantpipe.distributed.launch import Rank

_COME = timedelta(minutes=5)


class _Sum(torch.autograd.Function):
    """The sum over ranks. What one rank's value does to every rank's loss comes back summed.

    ``torch.distributed.nn.functional.all_reduce`` does the same, but is deprecated in torch 2.13 in
    favor of a private module.
    """

    @staticmethod
    def forward(context: Any, values: Tensor) -> Tensor:  # noqa: ARG004
        """Adds up the values."""
        total = values.clone()
        distributed.all_reduce(total)
        return total

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> Tensor:  # noqa: ARG004
        """Adds up the gradients."""
        total = gradient.clone()
        distributed.all_reduce(total)
        return total


@final
class TorchProcessGroup:
    """The :class:`~quantpipe.process_group.ProcessGroup` of a process that has joined others."""

    def __init__(self, rank: Rank):
        self.rank = rank.number
        self.local_rank = rank.local
        self.size = rank.size

    def __deepcopy__(self, memo: object) -> TorchProcessGroup:
        """A copied network stays in the same group."""
        return self

    def broadcast(self, value: Any) -> Any:
        """What rank 0 gave."""
        values = [value]
        distributed.broadcast_object_list(values, src=0)
        return values[0]

    def all_gather(self, value: Any) -> list[Any]:
        """What every rank gave, in their order."""
        values: list[Any] = [None] * self.size
        distributed.all_gather_object(values, value)
        return values

    def all_reduce_sum(self, values: Tensor) -> Tensor:
        """The sum over ranks, with gradients."""
        total: Tensor = _Sum.apply(values)  # type: ignore[no-untyped-call]
        return total

    def all_reduce_max(self, values: Tensor) -> Tensor:
        """The largest of all ranks, element by element, without gradients."""
        largest = values.detach().clone()
        distributed.all_reduce(largest, op=distributed.ReduceOp.MAX)
        return largest


def _all(rank: Rank, store: Store, what: str, limit: timedelta) -> None:
    """Waits until every rank has got this far."""
    store.set(f"{what}/{rank.number}", "")
    store.wait([f"{what}/{number}" for number in range(rank.size)], limit)


@contextmanager
def joined(
    rank: Rank, store: Store, *, device: str, timeout_seconds: float
) -> Iterator[TorchProcessGroup]:
    """Joins the ranks and leaves them again; every rank must come.

    Args:
        rank: This process.
        store: Where they meet, used for nothing else.
        device: ``cpu`` or ``cuda``.
        timeout_seconds: How long a rank may let the others wait.
    """
    backend = "nccl" if device == "cuda" else "gloo"
    limit = timedelta(seconds=timeout_seconds)
    if device == "cuda":
        torch.cuda.set_device(rank.local)
    # To come takes as long as it takes to start; only after that does the limit hold.
    _all(rank, store, "here", _COME)
    distributed.init_process_group(
        backend, store=store, rank=rank.number, world_size=rank.size, timeout=limit
    )
    try:
        yield TorchProcessGroup(rank)
        # Who left while another still listens would look like a rank that died.
        _all(rank, store, "done", limit)
    finally:
        distributed.destroy_process_group()
