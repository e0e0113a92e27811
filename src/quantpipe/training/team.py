"""The processes that train one network together, as the loop sees them."""

from __future__ import annotations

from typing import Any, Protocol

from torch import Tensor


class Team(Protocol):
    """Ranks 0 to ``size`` - 1; each calls the same methods in the same order."""

    @property
    def rank(self) -> int:
        """Which of them this process is; 0 leads, saves and publishes."""
        ...

    @property
    def size(self) -> int:
        """How many there are."""
        ...

    def sum(self, values: Tensor) -> Tensor:
        """The sum over all ranks, on every rank; gradients flow back to all of them."""
        ...

    def max(self, values: Tensor) -> Tensor:
        """The largest over all ranks, element by element, on every rank; without gradients."""
        ...

    def share(self, value: Any) -> Any:
        """What rank 0 gave, on every rank."""
        ...


class Alone:
    """The team of one process: nothing to exchange."""

    rank = 0
    size = 1

    def sum(self, values: Tensor) -> Tensor:
        """Returns ``values``."""
        return values

    def max(self, values: Tensor) -> Tensor:
        """Returns ``values``."""
        return values

    def share(self, value: Any) -> Any:
        """Returns ``value``."""
        return value
