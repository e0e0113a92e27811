"""The processes that share one piece of work, as that work sees them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from torch import Tensor


class ProcessGroup(Protocol):
    """Ranks 0 to ``size`` - 1; each calls the same methods in the same order."""

    @property
    def rank(self) -> int:
        """Which of them this process is; 0 leads, saves and publishes."""
        ...

    @property
    def local_rank(self) -> int:
        """Which of those on its host; it computes on the GPU of this number."""
        ...

    @property
    def size(self) -> int:
        """How many there are."""
        ...

    def broadcast(self, value: Any) -> Any:
        """What rank 0 gave, on every rank."""
        ...

    def all_gather(self, value: Any) -> list[Any]:
        """What every rank gave, in their order, on every rank."""
        ...

    def all_reduce_sum(self, values: Tensor) -> Tensor:
        """The sum over all ranks, on every rank; gradients flow back to all of them."""
        ...

    def all_reduce_max(self, values: Tensor) -> Tensor:
        """The largest of all ranks, element by element, on every rank; without gradients."""
        ...


Follow = Callable[[ProcessGroup, Any], object]
"""What the other ranks do beside rank 0; pickled by name, like its argument."""


class SingleProcess:
    """The group of one process: nothing to exchange."""

    rank = 0
    local_rank = 0
    size = 1

    def broadcast(self, value: Any) -> Any:
        """Returns ``value``."""
        return value

    def all_gather(self, value: Any) -> list[Any]:
        """Returns ``value`` alone."""
        return [value]

    def all_reduce_sum(self, values: Tensor) -> Tensor:
        """Returns ``values``."""
        return values

    def all_reduce_max(self, values: Tensor) -> Tensor:
        """Returns ``values``."""
        return values.detach()
