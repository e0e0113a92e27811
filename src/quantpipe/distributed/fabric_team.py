"""A team of ranks over Lightning Fabric: gloo between processors, NCCL between GPUs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, final

import torch
from lightning_fabric import Fabric
from lightning_fabric.plugins.environments.cluster_environment import ClusterEnvironment
from lightning_fabric.strategies.ddp import DDPStrategy
from torch import Tensor, distributed


@final
class Ranks(ClusterEnvironment):
    """Ranks on this machine that are started already; Fabric need not start any."""

    def __init__(self, rank: int, size: int, port: int):
        self._rank, self._size, self._port = rank, size, port

    @property
    def creates_processes_externally(self) -> bool:
        """Whether somebody else starts the ranks."""
        return True

    @property
    def main_address(self) -> str:
        """Where the ranks meet."""
        return "127.0.0.1"

    @property
    def main_port(self) -> int:
        """At which port."""
        return self._port

    @staticmethod
    def detect() -> bool:
        """Never chosen by itself."""
        return False

    def world_size(self) -> int:
        """How many ranks there are."""
        return self._size

    def set_world_size(self, size: int) -> None:
        """Fabric derives it from ``devices``, which is the same number."""

    def global_rank(self) -> int:
        """Which of them this is."""
        return self._rank

    def set_global_rank(self, rank: int) -> None:
        """Fabric derives it from the local rank, which is the same number."""

    def local_rank(self) -> int:
        """The same: all are on this machine."""
        return self._rank

    def node_rank(self) -> int:
        """The first and only host."""
        return 0


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
    """The :class:`~quantpipe.training.team.Team` of this process."""

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
    def size(self) -> int:
        """How many there are."""
        return self._fabric.world_size

    def sum(self, values: Tensor) -> Tensor:
        """The sum over ranks, with gradients."""
        total: Tensor = _Sum.apply(values)  # type: ignore[no-untyped-call]
        return total

    def max(self, values: Tensor) -> Tensor:
        """The largest over ranks."""
        largest = values.detach().clone()
        distributed.all_reduce(largest, distributed.ReduceOp.MAX)
        return largest

    def share(self, value: Any) -> Any:
        """What rank 0 gave."""
        return self._fabric.broadcast(value)


@contextmanager
def joined(
    rank: int, size: int, port: int, *, device: str, timeout_seconds: float
) -> Iterator[FabricTeam]:
    """Joins the ranks and leaves them again; every rank must come."""
    backend = "nccl" if device == "cuda" else "gloo"
    strategy = DDPStrategy(
        cluster_environment=Ranks(rank, size, port),
        process_group_backend=backend,
        timeout=timedelta(seconds=timeout_seconds),
    )
    fabric = Fabric(accelerator=device, devices=size, strategy=strategy)
    fabric.launch()
    try:
        yield FabricTeam(fabric)
    finally:
        distributed.destroy_process_group()
