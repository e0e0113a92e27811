"""The ranks that torchrun or Slurm started: rank 0 runs the command, the others wait for its work.

They meet in a key-value store. For every piece of work rank 0 writes down that there is one; all
join a process group, share the work, and leave the group again. So only what is shared can time
out, and a rank that idles while rank 0 calibrates or builds engines costs nothing. A beat every
second tells who is alive; what a rank failed with it writes beside it.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from datetime import timedelta
from typing import Any, ClassVar, TypeVar

from torch.distributed import DistError
from torch.distributed.distributed_c10d import PrefixStore, Store
from torch.distributed.rendezvous import rendezvous

from quantpipe.distributed.launch import Rank, first_host
from quantpipe.errors import Interrupted, MachineError, QuantpipeError
from quantpipe.process_group import ProcessGroup

T = TypeVar("T")

# Interrupted is no failure, and never told.
_ERRORS = {e.__name__: e for e in QuantpipeError.__subclasses__() if e is not Interrupted}

_BEAT_SECONDS = 1.0
# Once the connection broke, a rank whose beat stands still for this long is the one to name ...
_SILENCE_SECONDS = 4.0
# ... but one that compiles an engine may hold Python's lock for longer: who only waits is patient.
_PATIENCE_SECONDS = 600.0
_JOIN_SECONDS = 600.0
_FAREWELL_SECONDS = 10.0
_POLL_SECONDS = 0.05


class World:
    """This process among the ranks of a launcher."""

    _current: ClassVar[World | None] = None

    def __init__(self, rank: Rank, store: Store):
        self.rank = rank
        self._store = store
        self._num_jobs = 0

    @classmethod
    def current(cls) -> World | None:
        """The ranks that this process leads, None where it was started alone."""
        return cls._current

    @contextmanager
    def leading(self) -> Iterator[None]:
        """What rank 0 does, whose :func:`~.ranks.run_together` then reaches the others."""
        World._current = self
        try:
            with _beating(self._store, self.rank.number):
                yield
        finally:
            World._current = None
            with suppress(DistError):
                self._announce(None)
                self._await_farewells()

    def run(
        self,
        lead: Callable[[ProcessGroup], T],
        follow: Callable[[ProcessGroup, Any], object],
        job: Any,
        *,
        size: int,
        device: str,
        timeout_seconds: float,
    ) -> T:
        """Does one piece of work with the others; see :func:`~.ranks.run_together`."""
        assert size == self.rank.size, (size, self.rank)
        terms = _Terms(device=device, timeout_seconds=timeout_seconds)
        self._announce(terms)
        self._await_others(timeout_seconds)
        try:
            with self._joined(terms) as processes:
                processes.broadcast((follow, job))
                return lead(processes)
        except QuantpipeError:
            raise
        except Exception as error:
            raise self._explained() or error from error

    def serve(self) -> None:
        """What the other ranks do: whatever rank 0 wants, until it wants no more.

        Raises:
            MachineError: Rank 0, or a rank it worked with, is gone.
        """
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_IGN)  # rank 0 decides when to stop
        with _beating(self._store, self.rank.number):
            while (terms := self._next()) is not None:
                try:
                    self._follow(terms)
                except Interrupted:
                    continue
                except QuantpipeError as error:
                    self._store.set(f"error/{self.rank.number}", _as_text(error))
                    raise
        self._store.set(f"bye/{self.rank.number}", "")

    def _follow(self, terms: _Terms) -> None:
        try:
            with self._joined(terms) as processes:
                follow, job = processes.broadcast(None)
                follow(processes, job)
        except QuantpipeError:
            raise
        except Exception as error:
            raise MachineError(
                f"rank {self.rank.number} lost the others ({error})",
                hint="rank 0 says which",
            ) from error

    @contextmanager
    def _joined(self, terms: _Terms) -> Iterator[ProcessGroup]:
        from quantpipe.distributed.torch_group import joined

        meeting = PrefixStore(f"work/{self._num_jobs}", self._store)
        with joined(
            self.rank, meeting, device=terms.device, timeout_seconds=terms.timeout_seconds
        ) as processes:
            yield processes

    def _announce(self, terms: _Terms | None) -> None:
        self._num_jobs += 1
        text = json.dumps(None if terms is None else asdict(terms))
        self._store.set(f"terms/{self._num_jobs}", text)

    def _next(self) -> _Terms | None:
        """Waits for what rank 0 wants next; None is its last word."""
        self._num_jobs += 1
        key = f"terms/{self._num_jobs}"
        beat, heard = b"", time.monotonic()
        while not self._store.check([key]):
            if (latest := self._beat(0)) != beat:
                beat, heard = latest, time.monotonic()
            if time.monotonic() - heard > _PATIENCE_SECONDS:
                raise MachineError(f"rank 0 of {self.rank.size} no longer answers")
            time.sleep(_POLL_SECONDS)
        terms = json.loads(self._store.get(key))
        if terms is None:
            return None
        self._store.set(f"ready/{self._num_jobs}/{self.rank.number}", "")
        return _Terms(**terms)

    def _await_others(self, timeout_seconds: float) -> None:
        """Waits until all have heard; joining at once would hang on a rank that is gone."""
        ready = [f"ready/{self._num_jobs}/{number}" for number in range(1, self.rank.size)]
        last_look = start = time.monotonic()
        while not all(self._store.check([key]) for key in ready):
            now = time.monotonic()
            if now - last_look > _SILENCE_SECONDS and (lost := self._explained()):
                raise lost
            last_look = now if now - last_look > _SILENCE_SECONDS else last_look
            if now - start > timeout_seconds:
                raise MachineError(f"not all {self.rank.size} ranks came in {timeout_seconds:g} s")
            time.sleep(_POLL_SECONDS)

    def _await_farewells(self) -> None:
        """The store may live in this process: who still reads it would see it break."""
        deadline = time.monotonic() + _FAREWELL_SECONDS
        for number in range(1, self.rank.size):
            while not self._store.check([f"bye/{number}"]) and time.monotonic() < deadline:
                time.sleep(_POLL_SECONDS)

    def _explained(self) -> QuantpipeError | None:
        """Why the connection to the others broke."""
        for number in self._silent():
            name = self._store.get(f"name/{number}").decode()
            return MachineError(
                f"rank {number} of {self.rank.size} ({name}) no longer answers; "
                "the others were ended",
                hint="run the same command again: it goes on from the last saved state",
            )
        for number in range(1, self.rank.size):
            if self._store.check([f"error/{number}"]):
                return _from_text(self._store.get(f"error/{number}"))
        return None

    def _silent(self) -> list[int]:
        """The other ranks whose beat stands still, found by watching for a while."""
        others = [number for number in range(self.rank.size) if number != self.rank.number]
        before = [self._beat(number) for number in others]
        time.sleep(_SILENCE_SECONDS)
        return [
            number
            for number, beat in zip(others, before, strict=True)
            if self._beat(number) == beat
        ]

    def _beat(self, number: int) -> bytes:
        key = f"beat/{number}"
        return self._store.get(key) if self._store.check([key]) else b""


@dataclass(frozen=True, kw_only=True)
class _Terms:
    """Under which terms all join for a piece of work."""

    device: str
    timeout_seconds: float


def _as_text(error: QuantpipeError) -> str:
    path = None if error.path is None else str(error.path)
    return json.dumps([type(error).__name__, error.cause, path, error.hint])


def _from_text(text: bytes) -> QuantpipeError:
    kind, cause, path, hint = json.loads(text)
    return _ERRORS[kind](cause, path=path, hint=hint)


def join_world(rank: Rank) -> World:
    """Meets the other ranks of the launcher.

    Raises:
        MachineError: They do not come.
    """
    address = _slurm_address() if "TORCHELASTIC_RUN_ID" not in os.environ else {}
    os.environ |= {"RANK": str(rank.number), "WORLD_SIZE": str(rank.size), **address}
    try:
        store, _, _ = next(rendezvous("env://", timeout=timedelta(seconds=_JOIN_SECONDS)))
    except (DistError, ValueError, OSError) as error:
        raise MachineError(
            f"rank {rank.number} of {rank.size} cannot reach the others ({error})",
            hint="see that MASTER_ADDR and MASTER_PORT can be reached from every host",
        ) from error
    world = World(rank, PrefixStore("quantpipe", store))
    world._store.set(f"name/{rank.number}", f"{socket.gethostname()}, process {os.getpid()}")
    return world


def _slurm_address() -> dict[str, str]:
    """Where the ranks of a Slurm step meet: its first host, a port that the job's number gives."""
    host = first_host(os.environ["SLURM_STEP_NODELIST"])
    port = 15_000 + int(os.environ["SLURM_JOB_ID"]) % 10_000
    # What the user set comes first: a host may have a faster network under another name.
    given = {
        name: os.environ[name] for name in ("MASTER_ADDR", "MASTER_PORT") if name in os.environ
    }
    return {"MASTER_ADDR": host, "MASTER_PORT": str(port)} | given


@contextmanager
def _beating(store: Store, number: int) -> Iterator[None]:
    """Beats in a thread, over a connection of its own, while the block runs."""
    stop = threading.Event()
    connection: Store = store.clone()  # type: ignore[attr-defined]

    def beat() -> None:
        count = 0
        with suppress(DistError):
            while True:
                connection.set(f"beat/{number}", str(count := count + 1))
                if stop.wait(_BEAT_SECONDS):
                    return

    thread = threading.Thread(target=beat, name="beat", daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join(_SILENCE_SECONDS)
