"""A team of ranks over Lightning Fabric: gloo between processors, NCCL between GPUs."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, final

import torch
from lightning_fabric import Fabric
from lightning_fabric.plugins.environments.cluster_environment import ClusterEnvironment
from lightning_fabric.strategies.ddp import DDPStrategy
from torch import Tensor, distributed
from torch.distributed.distributed_c10d import Store

from quantpipe.distributed.launch import Rank

_COME = timedelta(minutes=5)


@final
class Place(ClusterEnvironment):
    """Where a rank that is already started stands; Fabric need not start any."""

    def __init__(self, rank: Rank):
        self._rank = rank

    @property
    def creates_processes_externally(self) -> bool:
        """Whether somebody else starts the ranks."""
        return True

    @property
    def main_address(self) -> str:
        """Not asked: the ranks have met in their store."""
        return os.environ.get("MASTER_ADDR", "127.0.0.1")

    @property
    def main_port(self) -> int:
        """Not asked either."""
        return int(os.environ.get("MASTER_PORT", "0"))

    @staticmethod
    def detect() -> bool:
        """Never chosen by itself."""
        return False

    def world_size(self) -> int:
        """How many ranks there are."""
        return self._rank.size

    def set_world_size(self, size: int) -> None:
        """Fabric derives it from devices and hosts, which give the same number."""

    def global_rank(self) -> int:
        """Which of them this is."""
        return self._rank.number

    def set_global_rank(self, rank: int) -> None:
        """Fabric derives it from host and local rank, which give the same number."""

    def local_rank(self) -> int:
        """Which of its host."""
        return self._rank.local

    def node_rank(self) -> int:
        """Which host."""
        return self._rank.host


class _Sum(torch.autograd.Function):
    """The sum over ranks. What one rank's value does to every rank's loss comes back summed."""

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
class FabricTeam:
    """The :class:`~quantpipe.process_group.Team` of this process."""

    def __init__(self, fabric: Fabric):
        self._fabric = fabric

    def __deepcopy__(self, memo: object) -> FabricTeam:
        """A copied network stays in the same team."""
        return self

    @property
    def rank(self) -> int:
        """Which of the ranks this is."""
        return self._fabric.global_rank

    @property
    def local_rank(self) -> int:
        """Which of its host: the number of its GPU."""
        return self._fabric.local_rank

    @property
    def size(self) -> int:
        """How many there are."""
        return self._fabric.world_size

    def sum(self, values: Tensor) -> Tensor:
        """The sum over ranks, with gradients."""
        total: Tensor = _Sum.apply(values)  # type: ignore[no-untyped-call]
        return total

    def max(self, values: Tensor) -> Tensor:
        """The largest of all ranks, element by element, without gradients."""
        largest = values.detach().clone()
        distributed.all_reduce(largest, op=distributed.ReduceOp.MAX)
        return largest

    def share(self, value: Any) -> Any:
        """What rank 0 gave."""
        return self._fabric.broadcast(value)

    def gather(self, value: Any) -> list[Any]:
        """What every rank gave, in their order."""
        values: list[Any] = [None] * self.size
        distributed.all_gather_object(values, value)
        return values


def _all(rank: Rank, store: Store, what: str, limit: timedelta) -> None:
    """Waits until every rank has got this far."""
    store.set(f"{what}/{rank.number}", "")
    store.wait([f"{what}/{number}" for number in range(rank.size)], limit)


@contextmanager
def joined(
    rank: Rank, store: Store, *, device: str, timeout_seconds: float
) -> Iterator[FabricTeam]:
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
        strategy = DDPStrategy(
            cluster_environment=Place(rank), process_group_backend=backend, timeout=limit
        )
        fabric = Fabric(
            accelerator=device,
            devices=rank.size // rank.num_hosts,
            num_nodes=rank.num_hosts,
            strategy=strategy,
        )
        fabric.launch()
        yield FabricTeam(fabric)
        # Who left while another still listens would look like a rank that died.
        _all(rank, store, "done", limit)
    finally:
        distributed.destroy_process_group()
