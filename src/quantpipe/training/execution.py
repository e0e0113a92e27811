"""How a training is carried out; light, for the stages say it from their configurations."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Execution:
    """What changes how long a training takes, not what it ends with.

    Attributes:
        num_processes: Ranks that share every batch.
        timeout_seconds: How long one may let the others wait.
        num_workers: Threads of each rank that prepare batches.
        cache_mib: Memory of each rank for decoded images.
        save_every: Optimizer steps from one saved state to the next.
    """

    num_processes: int
    timeout_seconds: float
    num_workers: int
    cache_mib: int
    save_every: int
