"""Stores that lack one precaution each; a campaign must notice every one of them.

"Survived" counts the mutants that were noticed.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from faults.store_processes import in_child
from faults.tally import WATCHERS, Campaign, Tally

from faults import (
    store_concurrency,
    store_crashes,
    store_damage,
    store_order,
    store_power,
    store_scenarios,
    store_world,
)
from quantpipe import files
from quantpipe.core import maintenance as housekeeping
from quantpipe.core import run_cache, run_directory
from quantpipe.core.run_cache import Built, Entry, RunCache
from quantpipe.core.run_directory import RunDirectory

Patch = Callable[[], None]


@dataclass(frozen=True, kw_only=True)
class Mutant:
    """A change to the store, made in a process of its own, and the campaign that must notice."""

    name: str
    patch: Patch
    judge: Campaign
    share: float = 1.0


def run(seed: int, share: float) -> Tally:
    """All mutants, or a random share of them."""
    tally = Tally(campaign="mutants", rows=(), seed=seed)
    start = time.monotonic()
    chosen = random.Random(seed).sample(MUTANTS, max(1, round(share * len(MUTANTS))))
    for mutant in chosen:
        tally.record(mutant.name, caught(mutant, seed))
    tally.seconds = time.monotonic() - start
    return tally


def caught(mutant: Mutant, seed: int) -> str | None:
    """None where the campaign notices it, as it must."""
    ended = in_child(partial(_judged, mutant, seed))
    return None if ended.code == 0 and ended.value else f"not noticed {ended.trace[-300:]}"


def _judged(mutant: Mutant, seed: int) -> bool:
    """Whether the campaign fails, as it must; without the change it does not."""
    _silence()
    WATCHERS[:] = [_stop_at_a_failure]
    mutant.patch()
    try:
        mutant.judge(seed, mutant.share)
    except _NoticedError:
        return True
    return False


class _NoticedError(Exception):
    """A fault was not survived: the mutant is caught."""


def _stop_at_a_failure(survived: bool) -> None:
    if not survived:
        raise _NoticedError


def _silence() -> None:
    """The tracebacks of what must fail would hide those of what must not."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    os.dup2(nowhere, 2)


def _set(owner: Any, name: str, value: Any) -> Patch:
    return partial(setattr, owner, name, value)


def _all(*patches: Patch) -> Patch:
    def patch() -> None:
        for each in patches:
            each()

    return patch


def _nothing(*arguments: Any, **named: Any) -> None:
    """Stands for a precaution that is left out."""


class _WithoutSync:
    """The module ``os`` as a store sees it that syncs nothing."""

    fsync = staticmethod(_nothing)

    def __getattr__(self, name: str) -> Any:
        return getattr(os, name)


def _manifest_first() -> None:
    """The manifest is written while the files it names may not be on the disk."""
    seal = run_cache._seal

    def mutant(folder: Path, key: str, identity: Mapping[str, Any], built: Built) -> None:
        late: list[Path] = []
        sync = os.fsync

        def later(fd: Any) -> None:
            path = Path(f"/proc/self/fd/{fd}").readlink()
            if path.is_file() and "manifest" not in path.name:
                late.append(path)
            else:
                sync(fd)

        os.fsync = later
        seal(folder, key, identity, built)
        os.fsync = sync
        for path in late:
            with path.open("rb") as file:
                os.fsync(file.fileno())

    run_cache._seal = mutant


def _trusting(folder: Path, key: str) -> tuple[str, Entry | None]:
    """Takes an entry for whole if its manifest can be read and its files are there."""
    try:
        manifest = json.loads((folder / "manifest.json").read_bytes())
    except (OSError, ValueError):
        return "its manifest cannot be read", None
    recorded = manifest["files"]
    if any(not (folder / name).exists() for name in recorded):
        return "file missing", None
    digests = {name: file["sha256"] for name, file in recorded.items()}
    metrics, seconds = manifest["metrics"], manifest["seconds"]
    return "", Entry(key=key, folder=folder, digests=digests, metrics=metrics, seconds=seconds)


def _rename_first() -> None:
    """The entry is in its place before it is sealed."""
    seal = run_cache._seal

    def mutant(folder: Path, key: str, identity: Mapping[str, Any], built: Built) -> None:
        final = folder.parents[1] / "objects" / key[:2] / key
        files.make_folder(final.parent)
        folder.rename(final)
        seal(final, key, identity, built)
        final.rename(folder)

    run_cache._seal = mutant


def _unlink_first() -> None:
    replace = Path.replace

    def mutant(path: Path, target: Path) -> Path:
        target.unlink(missing_ok=True)
        return replace(path, target)

    Path.replace = mutant  # type: ignore[assignment, method-assign]


def _in_place(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def _progress_first() -> None:
    """Saved progress goes before the result is in its place."""
    seal = run_cache._seal

    def mutant(folder: Path, key: str, identity: Mapping[str, Any], built: Built) -> None:
        shutil.rmtree(folder.parents[1] / "progress" / key, ignore_errors=True)
        seal(folder, key, identity, built)

    run_cache._seal = mutant


def _thrown_away(cache: RunCache, folder: Path, fault: str) -> None:
    shutil.rmtree(folder)
    cache._warn(f"cache entry {folder.name[:12]} is damaged ({fault}); set aside")


@contextmanager
def _unlocked(cache: RunCache, key: str) -> Iterator[None]:
    yield


def _crashes(*scenarios: str) -> Campaign:
    return lambda seed, share: store_crashes.campaign(seed, share, scenarios)


def _power(*scenarios: str) -> Campaign:
    return lambda seed, share: store_power.campaign(seed, share, scenarios)


def _concurrency(*kinds: str) -> Campaign:
    return lambda seed, share: store_concurrency.campaign(seed, share, kinds)


_WRITERS = (files, store_world, store_scenarios)

MUTANTS = (
    Mutant(
        name="no fsync",
        patch=_all(*(_set(m, "os", _WithoutSync()) for m in (run_cache, files))),
        judge=_power("publish"),
    ),
    Mutant(name="manifest first", patch=_manifest_first, judge=store_order.run),
    Mutant(
        name="no digest check",
        patch=_set(run_cache, "_verify", _trusting),
        judge=store_damage.run,
        share=0.02,
    ),
    Mutant(
        name="no lock",
        patch=_set(RunCache, "lock", _unlocked),
        judge=_concurrency("same step"),
        share=0.1,
    ),
    Mutant(name="unlink before rename", patch=_unlink_first, judge=_crashes("progress")),
    Mutant(
        name="no directory sync",
        patch=_all(*(_set(m, "sync_directory", _nothing) for m in (run_cache, files))),
        judge=_power("publish"),
    ),
    Mutant(name="rename before fsync", patch=_rename_first, judge=store_order.run),
    Mutant(
        name="new folders not synced",
        patch=_all(
            *(
                _set(m, "make_folder", lambda p: p.mkdir(parents=True, exist_ok=True))
                for m in (run_cache, files, run_directory)
            )
        ),
        judge=_power("publish", "pipeline"),
        share=0.5,
    ),
    Mutant(
        name="written in place",
        patch=_all(*(_set(m, "write_atomic", _in_place) for m in _WRITERS)),
        judge=_crashes("progress"),
    ),
    Mutant(
        name="failed writers leave their files",
        patch=_set(run_cache, "_remove_tree", _nothing),
        judge=_crashes("publish"),
        share=0.5,
    ),
    Mutant(name="progress dropped first", patch=_progress_first, judge=_crashes("pipeline")),
    Mutant(
        name="damaged entries thrown away",
        patch=_set(RunCache, "_quarantine", _thrown_away),
        judge=_crashes("rebuild"),
        share=0.2,
    ),
    Mutant(
        name="edits overwritten",
        patch=_set(RunDirectory, "_settled", lambda *_: False),
        judge=_crashes("restore"),
        share=0.2,
    ),
    Mutant(
        name="prune what is in use",
        patch=_set(housekeeping, "unshared", lambda _: nullcontext()),
        judge=_concurrency("pruned"),
    ),
)
