"""Damage to every kind of file that the store keeps and that a run leaves."""

from __future__ import annotations

import json
import random
import shutil
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from faults.mutations import mutations
from faults.store_artifacts import FILES, made_in_a_process
from faults.store_processes import scratch
from faults.store_world import (
    TRAINING_STEPS,
    Told,
    World,
    contents,
    leftovers,
    states,
    train,
)
from faults.tally import Tally
from faults.text_steps import TextConfig, stage, step

from quantpipe.core.artifact import ArtifactKind
from quantpipe.core.pipeline import Pipeline
from quantpipe.core.runner import Runner, run_pipeline
from quantpipe.core.stage import Context, Inputs, Metrics, Output, Outputs

_MANIFEST = "manifest.json"
_PER_CACHE_FILE = 110
_PER_COPY = 80
_STRUCTURAL = 60
_PROGRESS = 150


def run(seed: int, share: float) -> Tally:
    """About 2,400 mutations, or a share of them."""
    tally = Tally(campaign="damage", rows=(8, 9, 10), seed=seed)
    chance = random.Random(seed)
    start = time.monotonic()
    with scratch() as folder:
        (folder / "made").mkdir()
        made_in_a_process(folder / "made")
        house = _House(folder / "world", folder / "made")
        house.run()
        _damage_entry(house, chance, share, tally)
        _rearrange_entry(house, chance, share, tally)
        _edit_copies(house, chance, share, tally)
        _damage_progress(folder / "training", chance, share, tally)
    tally.seconds = time.monotonic() - start
    return tally


@dataclass
class _House:
    """One step that makes every kind of artifact, and its run directory."""

    folder: Path
    made: Path

    def __post_init__(self) -> None:
        self.folder.mkdir()
        self.whole: dict[str, str] = {}

    @property
    def world(self) -> World:
        return World(self.folder)

    def run(self) -> tuple[Told, World]:
        """Runs the step in what would be a new process, and tells what it said."""
        world = self.world
        directory = world.directory()
        with directory.held():
            runner = Runner(
                cache=world.cache(),
                run_directory=directory,
                progress=world.told,
                seed=7,
                device="cpu",
            )
            run_pipeline(self.pipeline(world.log), runner)
        self.whole = self.whole or self.files()
        return world.told, world

    def pipeline(self, log: Path) -> Pipeline:
        outputs = {
            f"file{number}": Output(kind=ArtifactKind(name=name, files=(name,)))
            for number, name in enumerate(FILES)
        }
        making = stage(partial(_copy_all, self.made), name="all", outputs=outputs, inputs={})
        return Pipeline(name="p", steps=(step("all", log, making),))

    @property
    def entry(self) -> Path:
        (found,) = (self.world.cache_root / "objects").glob("??/*")
        return found

    def files(self) -> dict[str, str]:
        """Digests of the entry's files and their copies."""
        copies = contents(self.world.run_root / "all")
        found = {f"entry/{name}": d for name, d in contents(self.entry).items()}
        return found | {f"run/{n}": d for n, d in copies.items() if ".edited-" not in n}

    def set_aside(self) -> list[Path]:
        return list((self.world.cache_root / "quarantine").glob("*"))


def _copy_all(
    made: Path, config: TextConfig, inputs: Inputs, outputs: Outputs, context: Context
) -> Metrics:
    with config.log.open("a") as log:
        log.write("all\n")
    for path in outputs.values():
        shutil.copyfile(made / path.name, path)
    return {}


def _damage_entry(house: _House, chance: random.Random, share: float, tally: Tally) -> None:
    """Every file of the entry, its manifest too: set aside, made again, said."""
    for name in (*FILES, _MANIFEST):
        number = max(1, round(_PER_CACHE_FILE * share))
        whole = (house.entry / name).read_bytes()
        for mutation in mutations(whole, chance, number):
            path = house.entry / name
            if name == _MANIFEST and _says_the_same(whole, mutation.content):
                continue
            _put(path, mutation.content)
            tally.record(f"cache entry, {name} {mutation.what}", _rebuilt(house, tally))


def _says_the_same(manifest: bytes, content: bytes | None) -> bool:
    """White space may change without a trace; the next run reads the same."""
    try:
        return bool(json.loads(content or b"") == json.loads(manifest))
    except ValueError:
        return False


def _rearrange_entry(house: _House, chance: random.Random, share: float, tally: Tally) -> None:
    """Files that are each whole, in the wrong places, too many or too few."""
    for number in range(max(1, round(_STRUCTURAL * share))):
        first, second = chance.sample(FILES, 2)
        entry = house.entry
        kind = ("swapped", "extra", "linked", "folder", "both")[number % 5]
        if kind == "swapped":
            (entry / first).rename(entry / "x")
            (entry / second).rename(entry / first)
            (entry / "x").rename(entry / second)
        elif kind == "extra":
            shutil.copyfile(entry / first, entry / f"{number}.bin")
        elif kind == "linked":
            (entry / f"{number}.link").symlink_to(entry / first)
        elif kind == "folder":
            (entry / first).unlink()
            (entry / first).mkdir()
        else:
            shutil.copyfile(entry / first, entry / second)
        tally.record(f"cache entry, {first} and {second} {kind}", _rebuilt(house, tally))


def _put(path: Path, content: bytes | None) -> None:
    path.unlink() if content is None else path.write_bytes(content)


def _rebuilt(house: _House, tally: Tally) -> str | None:
    before = len(house.world.executions())
    told, world = house.run()
    done = len(world.executions()) - before
    warned = [line for line in told.lines if "is damaged" in line]
    problems = []
    if _unlike(house):
        tally.wrong_results += 1
        problems.append(f"taken for whole: {_unlike(house)}")
    if done != 1 or len(warned) != 1 or len(house.set_aside()) != 1:
        aside = len(house.set_aside())
        problems.append(f"made {done} times, {len(warned)} warnings, {aside} set aside")
    if left := leftovers(world):
        tally.temporary_files += len(left)
        problems.append(f"left over: {left[:2]}")
    for folder in house.set_aside():
        shutil.rmtree(folder)
    if house.entry.exists() and problems:  # start the next one from a whole entry
        shutil.rmtree(house.entry)
        house.run()
    return "; ".join(problems) or None


def _unlike(house: _House) -> list[str]:
    """Files that are not what they were; the manifest tells times and is judged by its files."""
    now = house.files()
    names = {*now, *house.whole} - {f"entry/{_MANIFEST}"}
    return sorted(name for name in names if now.get(name) != house.whole.get(name))


def _edit_copies(house: _House, chance: random.Random, share: float, tally: Tally) -> None:
    """Every file of the run directory: restored, the edit beside it, nothing computed."""
    run_root = house.world.run_root
    names = [f"all/{name}" for name in FILES] + [_MANIFEST, "status.json"]
    for name in names:
        path = run_root / name
        number = max(1, round(_PER_COPY * share))
        for mutation in mutations(path.read_bytes(), chance, number):
            _put(path, mutation.content)
            problem = _restored(house, name, mutation.content, tally)
            tally.record(f"run directory, {name} {mutation.what}", problem)


def _restored(house: _House, name: str, edit: bytes | None, tally: Tally) -> str | None:
    before = len(house.world.executions())
    told, world = house.run()
    problems = []
    if len(world.executions()) != before:
        tally.stages_redone += 1
        problems.append("computed again")
    if _unlike(house):
        tally.wrong_results += 1
        problems.append(f"not restored: {_unlike(house)}")
    kept = [path.read_bytes() for path in world.run_root.rglob("*.edited-*")]
    expected = [edit] if edit is not None and name.startswith("all/") else []
    if kept != expected:
        tally.bytes_lost += len(edit or b"") if expected else 0
        problems.append(f"{len(kept)} edits kept instead of {len(expected)}")
    if len([line for line in told.lines if "changed by hand" in line]) != len(expected):
        problems.append("said: " + "; ".join(told.lines)[:200])
    for path in world.run_root.rglob("*.edited-*"):
        path.unlink()
    return "; ".join(problems) or None


def _damage_progress(folder: Path, chance: random.Random, share: float, tally: Tally) -> None:
    """The saved states of a training that was killed: it goes on from an older one, or anew."""
    done = World(folder / "done")
    done.folder.mkdir(parents=True)
    first = done.run()[0]
    expected = first.artifacts["text"].digests
    for number in range(max(1, round(_PROGRESS * share))):
        world = World(folder / "world")
        world.folder.mkdir()
        progress = world.cache().progress_folder(first.key)
        _stopped_training(world, progress)
        damaged = []
        for path in chance.sample(states(progress), chance.choice((1, 2))):
            (mutation,) = list(mutations(path.read_bytes(), chance, 7))[-1:]
            _put(path, mutation.content)
            damaged.append(mutation.what)
        tally.record(f"progress {number}, {damaged}", _trained(world, expected, tally))
        shutil.rmtree(world.folder)


def _stopped_training(world: World, progress: Path) -> None:
    """Leaves the two newest states of a training that was killed before it was published."""
    config = TextConfig(text="train", log=world.folder / "before")
    outputs = {name: world.folder / name for name in ("text", "extra")}
    context = replace(_CONTEXT, progress_folder=progress)
    train(config, {}, outputs, context)


_CONTEXT = Context(
    step="train",
    seed=7,
    device="cpu",
    progress=Told(),
    progress_folder=Path(),
    memo=Path(),
    materialize=lambda identity, build: Path(),
)


def _trained(world: World, expected: Mapping[str, str], tally: Tally) -> str | None:
    records = world.run()
    steps = [line for line in world.executions() if line.startswith("train:")]
    if records[0].artifacts["text"].digests != expected:
        tally.wrong_results += 1
        return "ended with other weights"
    if len(steps) > TRAINING_STEPS:
        return f"{len(steps)} steps were done"
    return None
