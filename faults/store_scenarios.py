"""What a store does, as scenarios to disturb at every file operation."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from faults.store_processes import exit_code, forked
from faults.store_world import World, age, entry_files, save, states, whole_entries

from quantpipe.core.attribution import attribute_errors
from quantpipe.core.entry import Built, key_of
from quantpipe.core.maintenance import prune
from quantpipe.files import remove_leftovers, write_atomic

_DAY = 86_400.0
EDIT = b"edited by hand"
_OLD, _NEW = b"old settings" * 50, b"new settings" * 60


def _nothing(world: World) -> None:
    """Starts from an empty folder."""


@dataclass(frozen=True, kw_only=True)
class Scenario:
    """One thing that the store does.

    Attributes:
        name: One word.
        prepare: Makes what was there before.
        act: What is disturbed, and later done again undisturbed.
        precious: Contents by digest that no fault may destroy at any time.
        problem: Says what else must hold, right after the fault and at the end.
    """

    name: str
    prepare: Callable[[World], object] = _nothing
    act: Callable[[World], object]
    precious: tuple[bytes, ...] = ()
    problem: Callable[[World, bool], str | None] = lambda world, done: None
    rows: tuple[int, ...] = field(default=(2, 5, 6))


def _older(world: World) -> None:
    """Another entry is there, and the progress of this one."""
    world.publish("older")
    progress = world.cache().progress_folder(key_of({"stage": "one"}))
    save(progress, 2, "1;2;")


def _damaged(world: World) -> None:
    _older(world)
    folder = world.publish("one")
    content = bytearray((folder / "weights.bin").read_bytes())
    content[1000] ^= 0x10
    (folder / "weights.bin").write_bytes(content)
    world.log.unlink()


def _quarantined(world: World, done: bool) -> str | None:
    kept = list((world.cache_root / "quarantine").glob("*"))
    if done and len(kept) != 1:
        return f"{len(kept)} entries in quarantine instead of 1"
    return None


def _save_often(world: World) -> None:
    """A training's progress, and a settings file that is written over."""
    folder = world.cache().progress_folder("k" * 64)
    with attribute_errors(None):
        remove_leftovers(world.root)  # of a killed writer, as whoever owns the folder does
        for done in (2, 4, 6, 8):
            save(folder, done, "".join(f"{n};" for n in range(done)))
            world.said(f"saved:{done}")
            write_atomic(world.root / "settings", _NEW)


def _settings(world: World) -> None:
    world.root.mkdir(parents=True)
    (world.root / "settings").write_bytes(_OLD)


def _progress_problem(world: World, done: bool) -> str | None:
    """The newest state that was written is still there and whole; settings are old or new."""
    said = [int(line.partition(":")[2]) for line in world.executions()]
    kept = states(world.cache().progress_folder("k" * 64))
    if said and not done and (not kept or int(kept[0].name[5:9]) < said[-1]):
        return f"state {said[-1]} was saved and is gone"
    settings = world.root / "settings"
    if not settings.exists() or settings.read_bytes() not in (_OLD, _NEW):
        return "a file that was written over is neither old nor new"
    return None


def _full_house(world: World) -> None:
    """Four old entries, one of which a run refers to, and what killed writers left."""
    now = time.time()
    for name in ("a", "b", "c", "referred"):
        age(world.publish(name), 9 * _DAY, now)
    world.publish("young")
    run = world.root / "runs" / "mine"
    key = key_of({"stage": "referred"})
    run.mkdir(parents=True)
    (run / "manifest.json").write_text(f'{{"steps": {{"s": {{"key": "{key}"}}}}}}')
    left = world.cache_root / "staging" / f"{'0' * 64}.1"
    left.mkdir(parents=True)
    (left / "half").write_bytes(b"half")
    world.log.unlink()


def _prune(world: World) -> None:
    with attribute_errors(None):
        prune(
            world.cache_root, world.root / "runs", max_age_days=5, max_bytes=None, now=time.time()
        )


def _pruned_problem(world: World, done: bool) -> str | None:
    """Every entry is whole or away, and what is referred to or young stays."""
    whole = whole_entries(world)
    for name in ("a", "b", "c", "referred", "young"):
        key = key_of({"stage": name})
        folder = world.cache_root / "objects" / key[:2] / key
        there = key in whole
        if folder.exists() and not there:
            return f"half of entry {name} is there"
        if name in ("referred", "young") and not there:
            return f"entry {name} was removed"
        if done and there and name in "abc":
            return f"entry {name} was not removed"
    return None


def _run_then_edit(world: World) -> None:
    world.run()
    (world.run_root / "calibrate" / "text.txt").write_bytes(EDIT)
    (world.run_root / "train" / "extra.txt").unlink()
    world.log.unlink()


def _run_then_kill(world: World) -> None:
    """A writer is killed in the middle, its lock, its signature and half a folder remain."""
    ready = world.folder / "ready"

    def write(folder: Path) -> Built:
        (folder / "weights.bin").write_bytes(b"half")
        ready.touch()
        time.sleep(60)
        raise AssertionError("was not killed")

    identity = {"stage": "one"}
    _older(world)
    child = forked(lambda: world.cache().get_or_build(key_of(identity), identity, write))
    while not ready.exists():
        time.sleep(0.002)
    os.kill(child, signal.SIGKILL)
    assert exit_code(child) == -signal.SIGKILL
    (world.cache_root / "locks" / f".{key_of(identity)}.holder.{'a' * 32}.tmp").write_text("{")
    world.log.unlink()


_OLDER = tuple(entry_files("older").values())

SCENARIOS: Mapping[str, Scenario] = {
    scenario.name: scenario
    for scenario in (
        Scenario(name="publish", prepare=_older, act=World.publish, precious=_OLDER),
        Scenario(name="pipeline", act=World.run, rows=(1, 2, 5, 6)),
        Scenario(
            name="rebuild",
            prepare=_damaged,
            act=World.publish,
            precious=_OLDER,
            problem=_quarantined,
            rows=(2, 5, 6, 8),
        ),
        Scenario(name="progress", prepare=_settings, act=_save_often, problem=_progress_problem),
        Scenario(
            name="prune",
            prepare=_full_house,
            act=_prune,
            precious=tuple(entry_files("referred").values()) + tuple(entry_files("young").values()),
            problem=_pruned_problem,
        ),
        Scenario(
            name="restore", prepare=_run_then_edit, act=World.run, precious=(EDIT,), rows=(2, 5, 10)
        ),
        Scenario(
            name="takeover",
            prepare=_run_then_kill,
            act=World.publish,
            precious=_OLDER,
            rows=(2, 5, 13),
        ),
    )
}


def outcome(work: Callable[[], Any]) -> int:
    """The exit code that a command would give."""
    from quantpipe.errors import QuantpipeError

    try:
        work()
    except QuantpipeError as error:
        return error.exit_code
    return 0
