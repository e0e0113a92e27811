"""Stores that lack one precaution each; a campaign must notice every one of them.

"Survived" counts the mutants that were noticed.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from faults.store_operations import OVER_THE_WATCHER
from faults.store_processes import in_child
from faults.tally import WATCHERS, Campaign, Tally

from faults import (
    store_concurrency,
    store_crashes,
    store_damage,
    store_order,
    store_power,
)
from quantpipe.core.entry import Built, Entry
from quantpipe.core.lock import unshared_lock
from quantpipe.core.run_cache import RunCache
from quantpipe.files import make_folder, sha256_file, sync_directory, write_atomic

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


def _everywhere(public: Callable[..., Any], stand_in: Callable[..., Any]) -> Patch:
    """Puts something in the place of a public function, in every other module that holds it."""

    def patch() -> None:
        ours = [m for n, m in sys.modules.items() if n.startswith(_OURS) and n != __name__]
        for module in ours:
            for name in [name for name, value in vars(module).items() if value is public]:
                setattr(module, name, stand_in)

    return patch


def _calls_of_the_system(change: Callable[[], None]) -> Patch:
    """Changes functions of ``os`` above what watches them."""
    return partial(OVER_THE_WATCHER.append, change)


def _nothing(*arguments: Any, **named: Any) -> None:
    """Stands for a precaution that is left out."""


def _syncs_nothing() -> None:
    os.fsync = _nothing


def _synced_late(chosen: Callable[[Path], bool], until: Callable[[Path], bool]) -> None:
    """Syncs what is chosen of a staging folder only after a rename to a certain place."""
    late: list[str] = []
    sync = os.fsync

    def fsync(fd: Any) -> None:
        path = Path(f"/proc/self/fd/{fd}").readlink()
        if "/staging/" in str(path) and chosen(path):
            late.append(str(path))
        else:
            sync(fd)

    def moving(move: Callable[..., None]) -> Callable[..., None]:
        def moved(source: Any, target: Any, **more: Any) -> None:
            move(source, target, **more)
            late[:] = [path.replace(str(source), str(target)) for path in late]
            if until(Path(target)):
                _sync_all(late, sync)
                late.clear()

        return moved

    os.fsync, os.rename, os.replace = fsync, moving(os.rename), moving(os.replace)


def _sync_all(paths: Iterable[str], sync: Callable[[int], None]) -> None:
    for path in paths:
        descriptor = os.open(path, os.O_RDONLY)
        sync(descriptor)
        os.close(descriptor)


def _manifest_first() -> None:
    """The manifest is written while the files it names may not be on the disk."""
    _synced_late(
        lambda path: path.is_file() and _MANIFEST not in path.name,
        until=lambda path: path.name == _MANIFEST,
    )


def _rename_first() -> None:
    """The entry is in its place before its files are on the disk."""
    _synced_late(lambda path: True, until=lambda path: path.parents[1].name == "objects")


def _as_recorded(path: Path) -> str:
    """Takes a file's digest from the manifest of its entry, where there is one."""
    for folder in path.parents:
        with suppress(OSError, ValueError, LookupError, TypeError):
            files = json.loads((folder / _MANIFEST).read_bytes())["files"]
            return str(files[path.relative_to(folder).as_posix()]["sha256"])
    return sha256_file(path)


def _unlink_first() -> None:
    replace = os.replace

    def mutant(source: Any, target: Any, **more: Any) -> None:
        Path(target).unlink(missing_ok=True)
        replace(source, target, **more)

    os.replace = mutant  # type: ignore[assignment]


def _in_place(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def _staging_left() -> None:
    remove = shutil.rmtree

    def mutant(path: Any, *arguments: Any, **named: Any) -> None:
        if "staging" not in Path(path).parts:
            remove(path, *arguments, **named)

    shutil.rmtree = mutant  # type: ignore[assignment]


def _progress_first() -> None:
    """Saved progress goes before the result is in its place."""
    get_or_build = RunCache.get_or_build

    def mutant(
        cache: RunCache, key: str, identity: Mapping[str, Any], write: Callable[[Path], Built]
    ) -> tuple[Entry, bool]:
        def writing(folder: Path) -> Built:
            built = write(folder)
            shutil.rmtree(cache.progress_folder(key), ignore_errors=True)
            return built

        return get_or_build(cache, key, identity, writing)

    RunCache.get_or_build = mutant  # type: ignore[assignment, method-assign]


def _renames(chosen: Callable[[Path], bool], instead: Callable[[Path], object]) -> Patch:
    """Does something else to what would be renamed to a certain place."""

    def patch() -> None:
        rename = Path.rename

        def mutant(path: Path, target: Path) -> Path:
            if not chosen(target):
                return rename(path, target)
            instead(path)
            return target

        Path.rename = mutant  # type: ignore[assignment, method-assign]

    return patch


@contextmanager
def _unlocked(cache: RunCache, key: str) -> Iterator[None]:
    yield


def _crashes(*scenarios: str) -> Campaign:
    return lambda seed, share: store_crashes.campaign(seed, share, scenarios)


def _power(*scenarios: str) -> Campaign:
    return lambda seed, share: store_power.campaign(seed, share, scenarios)


def _concurrency(*kinds: str) -> Campaign:
    return lambda seed, share: store_concurrency.campaign(seed, share, kinds)


# Modules whose names for public functions are replaced.
_OURS = ("quantpipe.", "faults.")
_MANIFEST = "manifest.json"

MUTANTS = (
    Mutant(name="no fsync", patch=_calls_of_the_system(_syncs_nothing), judge=_power("publish")),
    Mutant(
        name="manifest first",
        patch=_calls_of_the_system(_manifest_first),
        judge=store_order.run,
    ),
    Mutant(
        name="no digest check",
        patch=_everywhere(sha256_file, _as_recorded),
        judge=store_damage.run,
        share=0.06,
    ),
    Mutant(
        name="no lock",
        patch=_set(RunCache, "lock", _unlocked),
        judge=_concurrency("same step"),
        share=0.1,
    ),
    Mutant(
        name="unlink before rename",
        patch=_calls_of_the_system(_unlink_first),
        judge=_crashes("progress"),
    ),
    Mutant(
        name="no directory sync",
        patch=_everywhere(sync_directory, _nothing),
        judge=_power("publish"),
    ),
    Mutant(
        name="rename before fsync",
        patch=_calls_of_the_system(_rename_first),
        judge=store_order.run,
    ),
    Mutant(
        name="new folders not synced",
        patch=_everywhere(make_folder, lambda path: path.mkdir(parents=True, exist_ok=True)),
        judge=_power("publish", "pipeline"),
        share=0.5,
    ),
    Mutant(
        name="written in place",
        patch=_everywhere(write_atomic, _in_place),
        judge=_crashes("progress"),
    ),
    Mutant(
        name="failed writers leave their files",
        patch=_staging_left,
        judge=_crashes("publish"),
        share=0.5,
    ),
    Mutant(name="progress dropped first", patch=_progress_first, judge=_crashes("pipeline")),
    Mutant(
        name="damaged entries thrown away",
        patch=_renames(lambda target: target.parent.name == "quarantine", shutil.rmtree),
        judge=_crashes("rebuild"),
        share=0.2,
    ),
    Mutant(
        name="edits overwritten",
        patch=_renames(lambda target: ".edited-" in target.name, Path.unlink),
        judge=_crashes("restore"),
        share=0.2,
    ),
    Mutant(
        name="prune what is in use",
        patch=_everywhere(unshared_lock, lambda path: nullcontext()),
        judge=_concurrency("pruned"),
    ),
)
