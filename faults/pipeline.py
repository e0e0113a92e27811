"""The real pipeline, killed and signaled in every stage until it ends all the same.

One run directory is disturbed again and again, a little further on each time, and then left to
end: a chain of ten disturbances costs little more than the run itself. Whatever stages and steps a
disturbance cost is counted, and what comes out in the end is compared with an unbroken run.
"""

from __future__ import annotations

import random
import shutil
import signal
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from faults.fork_server import Child, Ended, ForkServer
from faults.observed_steps import take_steps
from faults.tally import Tally
from faults.tiny_pipeline import OVERRIDES, SAVE_EVERY, STEPS, Left, differing

FULL = 80
"""Disturbances of the whole campaign."""

_POLL_SECONDS = 0.002
_LONGEST = 180.0
# From the second signal to the end of the process: a call into a library ends first.
_AT_ONCE = 5.0
_KINDS = {
    "SIGKILL": (signal.SIGKILL,),
    "SIGTERM": (signal.SIGTERM,),
    "SIGINT": (signal.SIGINT,),
    "SIGTERM twice": (signal.SIGTERM, signal.SIGTERM),
    "SIGTERM and SIGINT": (signal.SIGTERM, signal.SIGINT),
}
_WEIGHTS = (5, 2, 1, 2, 1)


@dataclass(frozen=True, kw_only=True)
class _Unbroken:
    """The run that the others must equal, and how many seconds each of its steps took."""

    results: Mapping[str, str]
    durations: Mapping[str, float]
    num_entries: int


def run(seed: int, share: float) -> Tally:
    """Disturbs the pipeline about ``share * FULL`` times."""
    started = time.monotonic()
    tally = Tally(campaign="pipeline", rows=(3, 4), seed=seed)
    rng = random.Random(seed)
    wanted = max(1, round(FULL * share))
    with tempfile.TemporaryDirectory(prefix="faults-") as temporary, ForkServer() as server:
        root = Path(temporary)
        unbroken = _run_unbroken(server, root / "unbroken")
        while tally.tried < wanted:
            folder = root / "chain"
            _Chain(server, folder, unbroken, tally, rng).run(wanted - tally.tried)
            shutil.rmtree(folder)
    tally.seconds = time.monotonic() - started
    return tally


def _run_unbroken(server: ForkServer, folder: Path) -> _Unbroken:
    child, left = server.start(folder, *OVERRIDES), Left(folder)
    began: dict[str, float] = {}
    while (status := left.status).get("state") != "done":
        assert status.get("state", "running") == "running", status
        if status.get("step"):
            began.setdefault(status["step"], time.monotonic())
        time.sleep(_POLL_SECONDS)
    begins, ends = list(began.values()), [*list(began.values())[1:], time.monotonic()]
    ended = child.wait(_LONGEST)
    assert ended is not None, "did not end"
    assert ended.code == 0, ended
    assert tuple(began) == STEPS, tuple(began)
    assert not left.temporary(), left.temporary()
    durations = [end - begin for begin, end in zip(begins, ends, strict=True)]
    return _Unbroken(
        results=left.results(),
        durations=dict(zip(STEPS, durations, strict=True)),
        num_entries=len(left.published()),
    )


class _Chain:
    """One run directory, disturbed once in every step, then left to end."""

    def __init__(
        self,
        server: ForkServer,
        folder: Path,
        unbroken: _Unbroken,
        tally: Tally,
        rng: random.Random,
    ):
        self._server, self._folder, self._unbroken = server, folder, unbroken
        self._tally, self._rng = tally, rng
        self._left = Left(folder)
        # Of each training: its last step so far, and how many steps before it may be done again.
        self._done: dict[str, tuple[int, int]] = {}

    def run(self, most: int) -> None:
        """Disturbs the run ``most`` times at most, one time for each step at most."""
        targets = sorted(self._rng.sample(range(len(STEPS)), min(most, len(STEPS))))
        faults = [self._disturb(STEPS[target]) for target in targets]
        # What is wrong in the end is held against the last disturbance.
        ending = self._end()
        for number, (fault, problem) in enumerate(faults, start=1):
            last = ending if number == len(faults) else None
            self._tally.record(fault, problem or last)

    def _disturb(self, target: str) -> tuple[str, str | None]:
        """Starts the command and signals it at a random moment from the start of a step on."""
        kind = self._rng.choices(list(_KINDS), _WEIGHTS)[0]
        moment = self._rng.random() * self._unbroken.durations[target]
        before, num_bytes = self._left.published(), self._left.num_bytes()
        child = self._server.start(self._folder, *OVERRIDES)
        _await_step(self._left, child.pid, target)
        time.sleep(moment)
        ended = self._signal(child, _KINDS[kind])
        fault = f"{kind} {moment:.3f} s into {target} (stopped in {self._left.status.get('step')})"
        if ended is None:
            return fault, f"had not ended after {_LONGEST:g} s"
        lost = max(0, num_bytes - self._left.num_bytes())
        self._tally.bytes_lost += lost
        problems = [
            self._redone(before),
            self._steps_lost(kind, ended),
            _wrongly_told(kind, ended),
            f"{lost} published bytes lost" if lost else None,
        ]
        return fault, "; ".join(filter(None, problems)) or None

    def _signal(self, child: Child, numbers: tuple[signal.Signals, ...]) -> Ended | None:
        child.send(numbers[0])
        for number in numbers[1:]:
            time.sleep(self._rng.random() * 0.1)
            child.send(number)
        return child.wait(_LONGEST if len(numbers) == 1 else _AT_ONCE)

    def _redone(self, before: Mapping[str, int]) -> str | None:
        """Entries that were whole and were built, or begun to be built, again."""
        now, begun = self._left.published(), self._left.being_built()
        again = [key for key, inode in before.items() if key in begun or now.get(key) != inode]
        self._tally.stages_redone += len(again)
        return f"{len(again)} finished stages were computed again" if again else None

    def _steps_lost(self, kind: str, ended: Ended) -> str | None:
        """Steps done again beyond those since the last saved state, by this attempt."""
        # Who was asked once saved its state before it went.
        saved = ended.code in (143, 130) and kind in ("SIGTERM", "SIGINT")
        lost = 0
        for training, (first, last) in take_steps(self._folder).items():
            done, may_repeat = self._done.get(training, (0, 0))
            lost += max(0, done + 1 - first - may_repeat)
            self._done[training] = (last, 0 if saved else SAVE_EVERY)
        self._tally.steps_lost += lost
        return f"{lost} training steps lost" if lost else None

    def _end(self) -> str | None:
        """Lets the run end; what is not as in the unbroken one."""
        before = self._left.published()
        ended = self._server.run(self._folder, *OVERRIDES, timeout=_LONGEST)
        if ended.code != 0:
            return f"could not be resumed: {ended.code}, {ended.told}"
        different = list(differing(self._left.results(), dict(self._unbroken.results)))
        temporary = self._left.temporary()
        self._tally.wrong_results += len(different)
        self._tally.temporary_files += len(temporary)
        surplus = len(self._left.published()) - self._unbroken.num_entries
        self._tally.stages_redone += max(0, surplus)
        problems = [
            self._redone(before),
            self._steps_lost("end", ended),
            f"unlike the unbroken run: {', '.join(different)}" if different else None,
            f"left behind: {', '.join(temporary)}" if temporary else None,
            f"{surplus} entries more than an unbroken run makes" if surplus else None,
        ]
        return "; ".join(filter(None, problems)) or None


def _await_step(left: Left, pid: int, target: str) -> None:
    """Waits until the process is at a step, or past it, or has ended."""
    place = STEPS.index(target)
    deadline = time.monotonic() + _LONGEST
    while time.monotonic() < deadline:
        status = left.status
        if status.get("pid") == pid:
            step = status.get("step")
            if status["state"] != "running" or step is None or STEPS.index(step) >= place:
                return
        time.sleep(_POLL_SECONDS)


def _wrongly_told(kind: str, ended: Ended) -> str | None:
    """What the exit code and the error output should have been."""
    if ended.code == 0:
        return None  # it was done before the signal came
    if "Traceback" in ended.err:
        return f"a traceback: {ended.err.splitlines()[-1]}"
    if kind == "SIGKILL":
        return None if ended.code == -signal.SIGKILL else f"exit code {ended.code}"
    numbers = _KINDS[kind]
    allowed = {128 + number for number in numbers}
    if ended.code not in allowed:
        return f"exit code {ended.code}, told {ended.told}"
    if len(ended.told) != 1 or "interrupted" not in ended.told[0]:
        return f"told {ended.told}"
    return None
