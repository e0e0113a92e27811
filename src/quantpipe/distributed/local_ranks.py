"""Starts the ranks of a process group here, watches them, and names the one that dies."""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import pickle
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch.distributed import TCPStore  # type: ignore[attr-defined]

from quantpipe.distributed.launch import Rank
from quantpipe.errors import Interrupted, MachineError, QuantpipeError
from quantpipe.process_group import Follow, ProcessGroup

T = TypeVar("T")

_HOST = "127.0.0.1"
_PR_SET_PDEATHSIG = 1
# How long a rank may take to be gone after its connection broke.
_GRACE_SECONDS = 5.0


def run_on_this_machine(
    lead: Callable[[ProcessGroup], T],
    follow: Follow,
    job: Any,
    *,
    size: int,
    device: str,
    timeout_seconds: float,
) -> T:
    """Runs ``lead`` as rank 0 in this process, and starts the others.

    Arguments and errors are those of :func:`~quantpipe.distributed.ranks.run_together`.
    """
    from quantpipe.distributed.torch_group import joined

    store = TCPStore(_HOST, 0, is_master=True, wait_for_workers=False)
    place = _Place(size=size, port=store.port, device=device, timeout_seconds=timeout_seconds)
    with _others(follow, job, place) as ranks, _share_of_threads(size):
        try:
            with joined(place.rank(0), store, **place.limits) as processes:
                result = lead(processes)
        except QuantpipeError:
            raise
        except Exception as error:
            raise _explained(ranks, size, timeout_seconds) or error from error
        for rank in ranks:
            rank.process.join(_GRACE_SECONDS)
        return result


@dataclass(frozen=True, kw_only=True)
class _Place:
    """Where and how the ranks meet."""

    size: int
    port: int
    device: str
    timeout_seconds: float

    @property
    def limits(self) -> Any:
        return {"device": self.device, "timeout_seconds": self.timeout_seconds}

    def rank(self, number: int) -> Rank:
        return Rank(number=number, local=number, host=0, size=self.size, num_hosts=1)


@contextmanager
def _share_of_threads(size: int) -> Iterator[None]:
    """This rank's share of the processor's threads; more would only wait for each other."""
    threads = torch.get_num_threads()
    torch.set_num_threads(max(1, threads // size))
    try:
        yield
    finally:
        torch.set_num_threads(threads)


class _Rank:
    """One other process, and the end of the pipe on which it says what it failed with."""

    def __init__(self, number: int, process: Any, errors: Connection):
        self.number, self.process, self.errors = number, process, errors

    def failure(self) -> QuantpipeError | None:
        """What this rank raised, where it could still say so."""
        try:
            found = self.errors.recv() if self.errors.poll() else None
        except (EOFError, OSError):
            return None
        return found if isinstance(found, QuantpipeError) else None

    def is_stopped(self) -> bool:
        """Whether the process lives but does not run."""
        try:
            status = Path(f"/proc/{self.process.pid}/stat").read_text()
        except OSError:
            return False
        return status.rpartition(")")[2].split()[0] in "tT"


@contextmanager
def _others(follow: Follow, job: Any, place: _Place) -> Iterator[list[_Rank]]:
    """Ranks 1 and up; whatever happens, none outlives the block."""
    context = multiprocessing.get_context("spawn")
    # As bytes, of which each rank makes its own: torch would share the tensors through /dev/shm and
    # a descriptor each, of which a container may have too little.
    work = pickle.dumps((follow, job), protocol=pickle.HIGHEST_PROTOCOL)
    ranks: list[_Rank] = []
    try:
        for number in range(1, place.size):
            receiving, sending = context.Pipe(duplex=False)
            arguments = (number, place, work, sending)
            process = context.Process(target=_run_rank, args=arguments, daemon=True)
            process.start()
            sending.close()
            ranks.append(_Rank(number, process, receiving))
        yield ranks
    finally:
        for rank in ranks:
            rank.process.kill()
        for rank in ranks:
            rank.process.join()
            rank.errors.close()


def _run_rank(number: int, place: _Place, work: bytes, errors: Connection) -> None:
    """What a rank other than 0 does: the same work, in silence."""
    # Should the leader be killed, nobody would end this process.
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the leader decides when to stop
    from quantpipe.distributed.torch_group import joined

    follow, job = pickle.loads(work)  # noqa: S301 - from the process that started this one
    try:
        with (
            _share_of_threads(place.size),
            joined(place.rank(number), _store(place.port), **place.limits) as processes,
        ):
            follow(processes, job)
    except Interrupted:
        return
    except QuantpipeError as error:
        errors.send(error)
        os._exit(1)


def _explained(ranks: list[_Rank], size: int, timeout_seconds: float) -> QuantpipeError | None:
    """Why the connection to the others broke."""
    deadline = time.monotonic() + _GRACE_SECONDS
    while time.monotonic() < deadline:
        for rank in ranks:
            if failure := rank.failure():
                return failure
            code = rank.process.exitcode
            if code is not None:
                how = f"was killed by signal {-code}" if code < 0 else f"ended with code {code}"
                return _lost(rank, size, how)
            if rank.is_stopped():
                return _lost(rank, size, f"has not answered for {timeout_seconds:g} s")
        time.sleep(0.05)
    return None


def _lost(rank: _Rank, size: int, how: str) -> MachineError:
    return MachineError(
        f"rank {rank.number} of {size} (process {rank.process.pid}) {how}; the others were ended",
        hint="run the same command again: it goes on from the last saved state",
    )


def _store(port: int) -> TCPStore:
    return TCPStore(_HOST, port, is_master=False)
