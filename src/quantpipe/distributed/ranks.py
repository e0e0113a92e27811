"""One piece of work on several processes: those of a launcher, or some that are started here."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from quantpipe.process_group import Follow, ProcessGroup, SingleProcess

T = TypeVar("T")


def run_together(
    lead: Callable[[ProcessGroup], T],
    follow: Follow,
    job: Any,
    *,
    size: int,
    device: str,
    timeout_seconds: float,
) -> T:
    """Runs ``lead(processes)`` as rank 0, here, beside ``follow(processes, job)`` on the others.

    Args:
        lead: What rank 0 does; its result is returned.
        follow: What the others do; pickled by name.
        job: Its argument; pickled too.
        size: Ranks; 1 starts nothing.
        device: ``cpu`` or ``cuda``.
        timeout_seconds: How long a rank may let the others wait.

    Raises:
        MachineError: A rank died or no longer answers; names it. All others are gone then.
        QuantpipeError: What a rank raised.
    """
    if size == 1:
        return lead(SingleProcess())
    from quantpipe.distributed.local_ranks import run_on_this_machine
    from quantpipe.distributed.world import World

    world = World.current()
    run = run_on_this_machine if world is None else world.run
    return run(lead, follow, job, size=size, device=device, timeout_seconds=timeout_seconds)
