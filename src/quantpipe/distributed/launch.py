"""Which rank this process is, where torchrun or Slurm started it as one of several.

Reads the environment only: every command asks, and most are alone.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass

from quantpipe.errors import ConfigurationError, MachineError


@dataclass(frozen=True, kw_only=True)
class Rank:
    """One of ``size`` processes on ``num_hosts`` hosts; ``local`` counts on its own host."""

    number: int
    local: int
    host: int
    size: int
    num_hosts: int

    def __post_init__(self) -> None:
        if self.size % self.num_hosts:
            raise MachineError(
                f"{self.size} processes do not spread evenly over {self.num_hosts} hosts",
                hint="start the same number on every host",
            )


# What holds (number, local, host, size) and the number of hosts. Slurm's names are those of a job
# step: a batch script itself, outside srun, is alone.
_TORCHRUN = ("RANK", "LOCAL_RANK", "GROUP_RANK", "WORLD_SIZE")
_SLURM = ("SLURM_PROCID", "SLURM_LOCALID", "SLURM_NODEID", "SLURM_STEP_NUM_TASKS")


def launched(environment: Mapping[str, str] = os.environ) -> Rank | None:
    """Returns this process's rank under torchrun or ``srun``, None where it is alone.

    Raises:
        MachineError: The launcher's description of the ranks makes no sense.
    """
    try:
        if "TORCHELASTIC_RUN_ID" in environment:
            numbers = [int(environment[name]) for name in _TORCHRUN]
            num_hosts = numbers[-1] // int(environment["LOCAL_WORLD_SIZE"])
        elif "SLURM_STEP_NUM_TASKS" in environment:
            numbers = [int(environment[name]) for name in _SLURM]
            num_hosts = int(environment["SLURM_STEP_NUM_NODES"])
        else:
            return None
        number, local, host, size = numbers
        if size == 1:
            return None
        return Rank(number=number, local=local, host=host, size=size, num_hosts=num_hosts)
    except (KeyError, ValueError, ZeroDivisionError) as error:
        raise MachineError(
            f"the launcher does not say which rank this is ({error})",
            hint="start with torchrun, or with srun under Slurm",
        ) from error


def first_host(hosts: str) -> str:
    """Returns the first of Slurm's compressed list of hosts, ``gpu[08-11,14],cpu3``: ``gpu08``."""
    first = re.match(r"(?:[^,\[]|\[[^\]]*\])*", hosts)  # a comma in brackets ends no name
    assert first is not None
    return re.sub(r"\[(\w+)[^\]]*\]", r"\1", first[0])


def require_size(size: int) -> None:
    """Refuses a number of ranks other than the launcher's.

    Raises:
        ConfigurationError: Names both.
    """
    rank = launched()
    if rank is not None and rank.size != size:
        raise ConfigurationError(
            f"is {size}, but {rank.size} processes were started",
            path="trainer.devices",
            hint=f"set trainer.devices={rank.size}",
        )
