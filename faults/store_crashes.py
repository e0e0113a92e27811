"""Kills, torn writes, full and failing disks at every file operation of every scenario."""

from __future__ import annotations

import errno
import random
import shutil
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from faults.store_operations import (
    GROWS,
    READS,
    Disturb,
    Operation,
    failing_at,
    failing_from,
    killed_at,
    torn_at,
    watched,
)
from faults.store_processes import Ended, in_child, scratch
from faults.store_scenarios import SCENARIOS, Scenario, outcome
from faults.store_world import (
    SAVE_EVERY,
    World,
    contents,
    leftovers,
    results,
    whole_entries,
)
from faults.tally import Tally

from quantpipe.files import sha256_bytes

_MACHINE = 5


@dataclass(frozen=True, kw_only=True)
class Point:
    """A fault at the ``number``-th operation."""

    scenario: str
    number: int
    fault: str
    operation: Operation

    def __str__(self) -> str:
        name = self.operation.path.rpartition("/")[2]
        return f"{self.scenario} {self.fault} at {self.number} ({self.operation.kind} {name[:20]})"

    @property
    def disturb(self) -> Disturb:
        if self.fault == "kill":
            return killed_at(self.number)
        if self.fault == "torn":
            return torn_at(self.number)
        if self.fault == "full":
            return failing_from(self.number, errno.ENOSPC, GROWS - {"fsync", "rename"})
        return failing_at(self.number, getattr(errno, self.fault))


@dataclass(frozen=True, kw_only=True)
class Reference:
    """An undisturbed run: its operations, its results, and where it started from."""

    scenario: Scenario
    start: Path
    operations: Sequence[Operation]
    results: dict[str, str]


def run(seed: int, share: float) -> Tally:
    """Every point of every scenario, or a random share of them."""
    return campaign(seed, share, tuple(SCENARIOS))


def campaign(seed: int, share: float, scenarios: Sequence[str]) -> Tally:
    """The points of these scenarios."""
    rows = sorted({row for name in scenarios for row in SCENARIOS[name].rows})
    tally = Tally(campaign="crashes", rows=rows, seed=seed)
    start = time.monotonic()
    with scratch() as folder:
        references = {name: _reference(SCENARIOS[name], folder / name) for name in scenarios}
        points = [point for ref in references.values() for point in _points(ref)]
        chosen = random.Random(seed).sample(points, max(1, round(share * len(points))))
        for point in sorted(chosen, key=lambda point: (point.scenario, point.number)):
            problem = _injected(point, references[point.scenario], folder / "point", tally)
            tally.record(str(point), problem)
            shutil.rmtree(folder / "point")
    tally.seconds = time.monotonic() - start
    return tally


def _reference(scenario: Scenario, folder: Path) -> Reference:
    start = World(folder / "start")
    start.folder.mkdir(parents=True)
    scenario.prepare(start)
    shutil.copytree(start.folder, folder / "whole")
    world = World(folder / "whole")
    ended = in_child(partial(_watched_act, scenario, world, None))
    assert ended.code == 0, ended.trace
    return Reference(
        scenario=scenario, start=start.folder, operations=ended.value[1], results=results(world)
    )


def _watched_act(
    scenario: Scenario, world: World, disturb: Disturb | None
) -> tuple[int, list[Operation]]:
    operations = watched(world.root, disturb) if disturb else watched(world.root)
    code = outcome(partial(scenario.act, world))
    return code, [] if disturb else list(operations)


def _points(reference: Reference) -> Iterator[Point]:
    for number, operation in enumerate(reference.operations, start=1):
        for fault in _faults(operation):
            yield Point(
                scenario=reference.scenario.name, number=number, fault=fault, operation=operation
            )


def _faults(operation: Operation) -> Iterator[str]:
    yield "EIO"
    if operation.kind not in READS:
        yield "kill"
    if operation.kind in ("write", "copy") and len(operation.data) > 1:
        yield "torn"
    if operation.kind in GROWS:
        yield "ENOSPC"
    if operation.kind in GROWS - {"fsync", "rename"}:
        yield "full"


def _injected(point: Point, reference: Reference, folder: Path, tally: Tally) -> str | None:
    """Injects the fault into a copy of the start, runs again, and says what is not as promised."""
    shutil.copytree(reference.start, folder)
    scenario = reference.scenario
    world = World(folder)
    disturbed = in_child(partial(_watched_act, scenario, world, point.disturb))
    problems = [
        _ended_wrongly(point, disturbed),
        _lost(scenario, world, tally),
        scenario.problem(world, False),
        _left_by_failure(point, disturbed, world),
    ]
    published = whole_entries(world)
    before = world.executions()
    again = in_child(partial(_act_again, scenario, world))
    if again.code or again.value:
        problems.append(f"the next run ended with {again.value or again.code} {again.trace[-300:]}")
    problems += [
        _gone(published, world, tally),
        _redone(before, world, tally),
        _different(reference, world, tally),
        _lost(scenario, world, tally),
        scenario.problem(world, True),
        _left(world, tally),
    ]
    return "; ".join(problem for problem in problems if problem) or None


def _act_again(scenario: Scenario, world: World) -> int:
    return outcome(partial(scenario.act, world))


def _ended_wrongly(point: Point, ended: Ended) -> str | None:
    if point.fault in ("kill", "torn"):
        return None if ended.code == -9 else f"was not killed but ended with {ended.code}"
    if ended.code:
        return f"ended with a traceback: {ended.trace[-300:]}"
    code = ended.value[0]
    return None if code in (0, _MACHINE) else f"ended with exit code {code}"


def _left_by_failure(point: Point, ended: Ended, world: World) -> str | None:
    """A run that a full disk ended leaves nothing in staging, as long as it may remove files."""
    if point.fault not in ("ENOSPC", "full") or ended.code or ended.value[0] != _MACHINE:
        return None
    left = [path.name for path in (world.cache_root / "staging").glob("*")]
    inherited = point.scenario in ("takeover", "prune")  # and not reached yet
    return f"the failed run left {left[0]} in staging" if left and not inherited else None


def _lost(scenario: Scenario, world: World, tally: Tally) -> str | None:
    there = set(contents(world.root).values())
    lost = [content for content in scenario.precious if sha256_bytes(content) not in there]
    tally.bytes_lost += sum(map(len, lost))
    return f"{len(lost)} files were lost" if lost else None


def _gone(published: dict[str, int], world: World, tally: Tally) -> str | None:
    now = whole_entries(world)
    if world.root.joinpath("runs").exists():
        return None  # pruned on purpose; its own conditions hold
    gone = {key: size for key, size in published.items() if key not in now}
    tally.bytes_lost += sum(gone.values())
    return f"{len(gone)} published results are gone" if gone else None


def _redone(before: list[str], world: World, tally: Tally) -> str | None:
    """At most the step that the fault hit is executed again, from its last saved state."""
    after = world.executions()
    steps = [line for line in after if ":" not in line]
    again = len(steps) - len(set(steps))
    trained = [line for line in after if line.startswith("train:")]
    lost = max(0, len(trained) - len(set(trained)) - SAVE_EVERY)
    trained_again = [line for line in after[len(before) :] if line.startswith("train:")]
    if before and not before[-1].startswith("train:") and "train:6" in before and trained_again:
        again += 1
    beyond = max(0, again - 1)
    tally.stages_redone += beyond
    tally.steps_lost += lost
    if beyond or lost:
        return f"{beyond} stages and {lost} training steps were done again: {after}"
    return None


def _different(reference: Reference, world: World, tally: Tally) -> str | None:
    found = results(world)
    wrong = {name for name in reference.results if found.get(name) != reference.results[name]}
    extra = {name for name in set(found) - set(reference.results) if ".edited-" not in name}
    tally.wrong_results += len(wrong)
    if wrong or extra:
        return f"results differ: {sorted(wrong | extra)[:3]}"
    return None


def _left(world: World, tally: Tally) -> str | None:
    left = leftovers(world)
    tally.temporary_files += len(left)
    return f"left over: {left[:3]}" if left else None
