"""Conditions that last: a full or limited disk, a store that can only be read, a wrong clock, kills
at the boundaries of steps, a run directory that is taken.
"""

from __future__ import annotations

import errno
import itertools
import os
import random
import resource
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from typing import Any

from faults.store_operations import GROWS, failing_from, watched
from faults.store_processes import Ended, exit_code, forked, in_child, scratch
from faults.store_world import Told, World, contents, leftovers, results
from faults.tally import Tally

from quantpipe.core.attribution import attribute_errors
from quantpipe.core.maintenance import prune
from quantpipe.errors import BusyError, MachineError, QuantpipeError

_STEPS = 4
_NOBODY = 65534
_WRITES = GROWS | {"unlink", "rmdir", "utime", "truncate", "chmod"}
_LIMITS = (0, 1, 50, 200, 400, 1000, 3000)


def run(seed: int, share: float) -> Tally:
    """Every condition, or a random share of each kind."""
    tally = Tally(campaign="conditions", rows=(1, 5, 7, 11, 13, 14), seed=seed)
    chance = random.Random(seed)
    start = time.monotonic()
    with scratch() as folder:
        folder.chmod(0o755)
        whole = World(folder / "whole")
        whole.folder.mkdir()
        whole.run()
        for kind, faults in _KINDS.items():
            chosen = [fault for fault in faults() if chance.random() < share] or [next(faults())]
            for fault in chosen:
                world = World(folder / "world")
                world.folder.mkdir()
                problem = _CHECKS[kind](world, whole, fault, tally)
                tally.record(f"{kind} {fault}", problem)
                shutil.rmtree(world.folder)
    tally.seconds = time.monotonic() - start
    return tally


def _told(work: Callable[[], Any]) -> tuple[int, str]:
    """The exit code and the line that a command would give."""
    try:
        work()
    except QuantpipeError as error:
        return error.exit_code, str(error)
    return 0, ""


def _unlike(world: World, whole: World, tally: Tally) -> str:
    if results(world) == results(whole):
        return ""
    tally.wrong_results += 1
    return "results differ"


def _copied(whole: World, world: World) -> None:
    shutil.copytree(whole.root, world.root)
    for path in (world.root, *world.root.rglob("*")):
        path.chmod(0o755 if path.is_dir() else 0o644)


def _killed_at_boundary(world: World, whole: World, fault: Any, tally: Tally) -> str | None:
    """SIGKILL when a step is done and the next not begun: nothing before it is done again."""

    def mark(text: str) -> None:
        if text.startswith(f"[{fault}/"):
            os.kill(os.getpid(), signal.SIGKILL)

    killed = in_child(lambda: World(world.folder, told=Told(mark)).run())
    in_child(world.run)
    done = world.executions()
    again = len(done) - len(set(done))
    tally.stages_redone += again
    problems = [
        "" if killed.code == -signal.SIGKILL else f"ended with {killed.code}",
        "" if again == 0 else f"done again: {done}",
        _unlike(world, whole, tally),
    ]
    return "; ".join(filter(None, problems)) or None


def _limited(world: World, whole: World, limit: Any, tally: Tally) -> str | None:
    """No file may be longer than ``limit`` bytes, as under a quota."""

    def work() -> tuple[int, str]:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
        return _told(world.run)

    return _after_full(world, whole, in_child(work), tally, may_succeed=limit >= 1000)


def _full(world: World, whole: World, number: Any, tally: Tally) -> str | None:
    """The disk is full from the ``number``-th operation on; files may be removed."""

    def work() -> tuple[int, str]:
        watched(world.root, failing_from(number, errno.ENOSPC, GROWS - {"fsync", "rename"}))
        return _told(world.run)

    return _after_full(world, whole, in_child(work), tally, may_succeed=False)


def _after_full(
    world: World, whole: World, ended: Ended, tally: Tally, *, may_succeed: bool
) -> str | None:
    if ended.code:
        return f"ended with {ended.code} {ended.trace[-300:]}"
    code, line = ended.value
    if code == 0 and may_succeed:
        return None
    told = "are needed" in line and "are free there" in line
    left = [path.name for path in (world.cache_root / "staging").glob("*")]
    kept = {name: digest for name, digest in results(world).items() if "objects/" in name}
    expected = results(whole)
    again = in_child(world.run)
    problems = [
        "" if code == MachineError.exit_code else f"exit code {code}",
        # Before the first bytes are written a folder may find no room.
        "" if told or "are free there" in line else f"said: {line}",
        f"left in staging: {left}" if left else "",
        "" if all(expected.get(n) == d for n, d in kept.items()) else "an older result is damaged",
        "" if again.code == 0 else "the next run failed",
        _unlike(world, whole, tally),
        f"left over: {leftovers(world)}" if leftovers(world) else "",
    ]
    tally.temporary_files += len(left) + len(leftovers(world))
    return "; ".join(filter(None, problems)) or None


def _read_only(world: World, whole: World, fault: Any, tally: Tally) -> str | None:
    """A store that can only be read: hits serve, and the first miss ends the run before it."""
    how, missing = fault
    _copied(whole, world)
    if missing:  # one result is not there, so that its step would have to run
        entries = sorted((world.cache_root / "objects").glob("??/*/text.txt"))
        shutil.rmtree(entries[missing - 1].parent)
    before = contents(world.cache_root)
    fresh = World(world.folder, run_name="other")

    def work() -> tuple[int, str]:
        if how == "EROFS":
            watched(world.cache_root, failing_from(1, errno.EROFS, _WRITES))
        else:
            _lose_rights(world)
        return _told(fresh.run)

    ended = in_child(work)
    if ended.code:
        return f"ended with {ended.code} {ended.trace[-300:]}"
    code, line = ended.value
    expected = MachineError.exit_code if missing else 0
    problems = [
        "" if code == expected else f"exit code {code}: {line}",
        "" if not missing or "can only be read" in line else f"said: {line}",
        f"executed {world.executions()}" if world.executions() else "",
        "" if contents(world.cache_root) == before else "the store was changed",
    ]
    return "; ".join(filter(None, problems)) or None


def _lose_rights(world: World) -> None:
    """The store's folders can be read by this process and no more."""
    world.folder.chmod(0o777)
    world.root.chmod(0o777)
    for path in (world.cache_root, *world.cache_root.rglob("*")):
        path.chmod(0o555 if path.is_dir() else 0o444)
    if os.geteuid() == 0:
        os.setresuid(_NOBODY, _NOBODY, _NOBODY)


def _wrong_clock(world: World, whole: World, fault: Any, tally: Tally) -> str | None:
    """A clock that goes back at every look, or is wrong by years, changes nothing."""
    step, offset = fault

    def work() -> tuple[str, ...]:
        looks = itertools.count(time.time() + offset, step)
        time.time = lambda: float(next(looks))
        keys = tuple(record.key for record in world.run())
        again = World(world.folder)
        assert all(record.reused for record in again.run())
        return keys

    ended = in_child(work)
    in_child(world.run)
    done = [line for line in world.executions() if ":" not in line]  # the training tells steps
    problems = [
        ended.trace[-300:],
        _unlike(world, whole, tally),
        "" if len(done) == _STEPS - 1 else f"executed {done}",
    ]
    return "; ".join(filter(None, problems)) or None


def _taken(world: World, whole: World, fault: Any, tally: Tally) -> str | None:
    """A second run in a directory ends at once with 75, names the first, and changes nothing."""
    ready = world.folder / "ready"

    def hold() -> None:
        with world.directory().held():
            ready.touch()
            time.sleep(60)

    child = forked(hold)
    while not ready.exists():
        time.sleep(0.002)
    before = contents(world.root)
    start = time.monotonic()
    code, line = _told(world.run)
    seconds = time.monotonic() - start
    problems = [
        "" if code == BusyError.exit_code else f"exit code {code}",
        "" if f"process {child} on" in line else f"said: {line}",
        "" if seconds < 2 else f"took {seconds:.1f} s",
        "" if contents(world.root) == before else "the directory was changed",
        "executed" if world.executions() else "",
    ]
    os.kill(child, signal.SIGKILL)
    exit_code(child)
    world.run()  # at once
    return "; ".join(filter(None, [*problems, _unlike(world, whole, tally)])) or None


def _pruned_when_full(world: World, whole: World, fault: Any, tally: Tally) -> str | None:
    """Pruning works on a disk without room: it is what makes room."""
    _copied(whole, world)
    (world.root / "runs").mkdir()

    def work() -> int:
        watched(world.root, failing_from(1, errno.ENOSPC, {"create", "write", "mkdir", "copy"}))
        later = time.time() + 1e6
        with attribute_errors(None):
            pruned = prune(
                world.cache_root, world.root / "runs", max_age_days=1, max_bytes=None, now=later
            )
        return len(pruned.removed)

    for path in (world.cache_root / "objects").glob("??/*"):
        (world.cache_root / "locks" / f"{path.name}.lock").touch()
    ended = in_child(work)
    there = len(list((whole.cache_root / "objects").glob("??/*")))
    return None if ended.value == there else f"removed {ended.value} of {there} {ended.trace}"


_KINDS: dict[str, Callable[[], Iterator[Any]]] = {
    "kill after step": lambda: iter(range(1, _STEPS + 1)),
    "longest file": lambda: iter(_LIMITS),
    "disk full from operation": lambda: iter(range(1, 420, 10)),
    "store that can only be read": lambda: iter(
        [(how, missing) for how in ("EROFS", "EACCES") for missing in range(_STEPS + 1)]
    ),
    "clock": lambda: iter(
        [(step, offset) for step in (-1.0, -3600.0, -1e6) for offset in (0.0, -1e9, 1e9)]
    ),
    "directory taken": lambda: iter(range(3)),
    "prune when full": lambda: iter(range(1)),
}
_CHECKS: dict[str, Callable[[World, World, Any, Tally], str | None]] = {
    "kill after step": _killed_at_boundary,
    "longest file": _limited,
    "disk full from operation": _full,
    "store that can only be read": _read_only,
    "clock": _wrong_clock,
    "directory taken": _taken,
    "prune when full": _pruned_when_full,
}
