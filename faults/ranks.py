"""Two ranks that train together, of which one is killed or no longer answers (row 34)."""

from __future__ import annotations

import os
import random
import signal
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from faults.fork_server import Child, Ended, ForkServer
from faults.numbers import published_stages
from faults.observed_steps import take_steps
from faults.tally import Tally
from faults.tiny_pipeline import OVERRIDES, SAVE_EVERY

from quantpipe.detector.checkpoint_file import load_checkpoint

_TIMEOUT = 4.0
# To name who is lost, and to end the others.
_GRACE = 15.0
_START = 180.0
_OVERRIDES = (
    *OVERRIDES,
    "pipeline.steps=[train_repopt]",
    "trainer.devices=2",
    f"trainer.timeout_s={_TIMEOUT}",
    "train_repopt.epochs=20",
    "train_repopt.validate_every=20",
)


@dataclass(frozen=True)
class _Fault:
    """Which rank is sent what, and how the command ends by it."""

    rank: int
    number: signal.Signals
    code: int
    says: str


_FAULTS = {
    "rank 1 killed": _Fault(1, signal.SIGKILL, 5, "was killed by signal 9"),
    "rank 1 stopped": _Fault(1, signal.SIGSTOP, 5, "has not answered for 4 s"),
    "rank 0 killed": _Fault(0, signal.SIGKILL, -9, ""),
    "rank 0 asked to stop": _Fault(0, signal.SIGTERM, 143, "interrupted"),
}


def run(seed: int, share: float) -> Tally:
    """Lets a share of the faults befall one training after the other, then lets it end."""
    started = time.monotonic()
    tally = Tally(campaign="ranks", rows=(34,), seed=seed)
    rng = random.Random(seed)
    names = rng.sample(sorted(_FAULTS), max(1, round(len(_FAULTS) * share)))
    with tempfile.TemporaryDirectory(prefix="faults-") as temporary, ForkServer() as server:
        training = _Training(server, Path(temporary) / "run", tally, rng)
        problems = {name: training.befall(_FAULTS[name]) for name in names}
        # What is wrong in the end is held against the last fault.
        problems[names[-1]] = problems[names[-1]] or training.end()
    for name, problem in problems.items():
        tally.record(f"row 34, {name}", problem)
    tally.seconds = time.monotonic() - started
    return tally


class _Training:
    """One training on two ranks, begun again after every fault."""

    def __init__(self, server: ForkServer, folder: Path, tally: Tally, rng: random.Random):
        self._server, self._folder, self._tally, self._rng = server, folder, tally, rng
        self._done: dict[str, int] = {}

    def befall(self, fault: _Fault) -> str | None:
        """Waits until both ranks train, lets one of them have it, and judges what follows."""
        child = self._server.start(self._folder, *_OVERRIDES)
        self._await_steps(child)
        ranks = {0: child.pid, 1: _other_rank(child.pid)}
        time.sleep(self._rng.random() * 0.3)
        os.kill(ranks[fault.rank], fault.number)
        ended = child.wait(_TIMEOUT + _GRACE)
        if ended is None:
            return f"had not ended {_TIMEOUT + _GRACE:g} s after"
        checks: tuple[Callable[[], str | None], ...] = (
            lambda: _wrongly_told(fault, ended),
            lambda: _still_there(ranks[1]),
            self._published,
            self._steps_lost,
        )
        return next((problem for check in checks if (problem := check())), None)

    def _published(self) -> str | None:
        count = published_stages(self._folder).get("train_repopt", 0)
        return "what was half trained was published" if count else None

    def end(self) -> str | None:
        """Lets it end."""
        ended = self._server.run(self._folder, *_OVERRIDES, timeout=2 * _START)
        if ended.code != 0:
            return f"could not be resumed: {ended.code}, {ended.told}"
        load_checkpoint(self._folder / "run" / "train_repopt" / "checkpoint.safetensors")
        return self._steps_lost()

    def _await_steps(self, child: Child) -> None:
        """Until the training has gone on by more than a saving interval."""
        log = self._folder / "steps.log"
        deadline = time.monotonic() + _START
        while time.monotonic() < deadline:
            if log.exists() and len(log.read_text().splitlines()) > SAVE_EVERY + 1:
                return
            time.sleep(0.01)
        child.send(signal.SIGKILL)

    def _steps_lost(self) -> str | None:
        lost = 0
        for training, (first, last) in take_steps(self._folder).items():
            lost += max(0, self._done.get(training, 0) + 1 - first - SAVE_EVERY)
            self._done[training] = last
        self._tally.steps_lost += lost
        return f"{lost} training steps lost" if lost else None


def _wrongly_told(fault: _Fault, ended: Ended) -> str | None:
    if ended.code != fault.code:
        return f"exit code {ended.code}, not {fault.code}: {ended.told or ended.err[-300:]}"
    if fault.number == signal.SIGKILL and fault.rank == 0:
        return None
    if len(ended.told) != 1 or fault.says not in ended.told[0]:
        return f"told {ended.told}"
    named = f"rank {fault.rank} of 2" in ended.told[0]
    return None if named or fault.rank == 0 else f"names no rank: {ended.told[0]}"


def _other_rank(leader: int) -> int:
    """The process that the leader started as rank 1, among its helpers."""
    for path in Path("/proc").glob("[0-9]*"):
        try:
            parent = (path / "stat").read_text().rpartition(")")[2].split()[1]
            command = (path / "cmdline").read_text()
        except OSError:
            continue
        if int(parent) == leader and "spawn_main" in command:
            return int(path.name)
    raise AssertionError("there is no second rank")


def _still_there(pid: int) -> str | None:
    """Whether a process outlives the command by more than a moment."""
    deadline = time.monotonic() + 2.0
    while time.monotonic() < deadline:
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except OSError:
            return None
        if state in "ZX":
            return None
        time.sleep(0.02)
    return f"rank 1 (process {pid}) is still there"
