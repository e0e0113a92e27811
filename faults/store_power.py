"""Power cuts after every operation of every scenario.

What was not synced is dropped altogether (``all``), or the names survive in order, as a journal
keeps them, and only the bytes are gone (``bytes``).
"""

from __future__ import annotations

import random
import shutil
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from faults.store_disk import CHANGE_NOTHING, Disk
from faults.store_operations import Operation, watched
from faults.store_processes import in_child, scratch
from faults.store_scenarios import SCENARIOS, Scenario, outcome
from faults.store_world import Told, World, contents, leftovers, results, whole_entries
from faults.tally import Tally

from quantpipe.files import sha256_bytes

_MODES = ("all", "bytes")
FINISHED = "finished"


def run(seed: int, share: float) -> Tally:
    """A power cut after every operation of every scenario, or a random share of them."""
    return campaign(seed, share, tuple(SCENARIOS))


def campaign(seed: int, share: float, scenarios: Sequence[str]) -> Tally:
    """The power cuts in these scenarios."""
    tally = Tally(campaign="power", rows=(2,), seed=seed)
    start = time.monotonic()
    with scratch() as folder:
        for name in scenarios:
            _cut(SCENARIOS[name], folder / name, random.Random(seed), share, tally)
    tally.seconds = time.monotonic() - start
    return tally


def traced(scenario: Scenario, world: World) -> list[Operation]:
    """The operations of an undisturbed act, with a ``note`` for each thing that is finished."""
    operations = watched(world.root)

    def mark(text: str) -> None:
        operations.append(Operation(kind="note", path=text))

    world.told = Told(mark)
    assert outcome(partial(scenario.act, world)) == 0
    mark(FINISHED)
    return operations


def _cut(
    scenario: Scenario, folder: Path, chance: random.Random, share: float, tally: Tally
) -> None:
    world = World(folder / "world")
    world.folder.mkdir(parents=True)
    scenario.prepare(world)
    disk = Disk.of(world.root)
    promised = set(whole_entries(world))
    ended = in_child(partial(traced, scenario, world))
    assert ended.code == 0, ended.trace
    expected = results(world)
    said: list[str] = []
    for number, operation in enumerate(ended.value, start=1):
        disk.do(operation)
        if operation.kind == "note":
            promised = set(disk.entries())
            said.append(operation.path)
        elif operation.kind in CHANGE_NOTHING:
            continue
        for mode in _MODES:
            if share < 1 and chance.random() >= share:
                continue
            here = World(folder / "cut")
            here.folder.mkdir()
            disk.write_safe(here.root, with_names=mode == "bytes")
            here.log.write_text("".join(f"{line}\n" for line in said if line != FINISHED))
            problem = _recovered(scenario, here, promised, said, expected, tally)
            tally.record(
                f"{scenario.name} power cut ({mode}) after {number} ({operation.kind})", problem
            )
            shutil.rmtree(here.folder)


def _recovered(
    scenario: Scenario,
    world: World,
    promised: set[str],
    said: Sequence[str],
    expected: dict[str, str],
    tally: Tally,
) -> str | None:
    problems = [scenario.problem(world, False)]
    whole = whole_entries(world)
    lost = set() if scenario.name == "prune" else promised - set(whole)
    tally.bytes_lost += sum(disk_bytes(world, key) for key in lost)
    if lost:
        problems.append(f"{len(lost)} published results are gone")
    if said and said[-1] == FINISHED and results(world) != expected:
        problems.append("what a finished run left is not there")
    there = {*contents(world.root).values()}
    gone = [content for content in scenario.precious if sha256_bytes(content) not in there]
    tally.bytes_lost += sum(map(len, gone))
    if gone:
        problems.append(f"{len(gone)} files were lost")
    again = in_child(partial(outcome, partial(scenario.act, world)))
    if again.code or again.value:
        problems.append(f"the next run ended with {again.value or again.code} {again.trace[-300:]}")
    if {n: d for n, d in results(world).items() if ".edited-" not in n} != {
        n: d for n, d in expected.items() if ".edited-" not in n
    }:
        tally.wrong_results += 1
        problems.append("results differ")
    left = leftovers(world)
    tally.temporary_files += len(left)
    if left:
        problems.append(f"left over: {left[:2]}")
    return "; ".join(filter(None, problems)) or None


def disk_bytes(world: World, key: str) -> int:
    """Bytes of what is still there of an entry, at least one."""
    folder = world.cache_root / "objects" / key[:2] / key
    return max(1, sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()))
