"""Looking after the store of results: list, verify and prune, under the locks that runs take."""

from __future__ import annotations

import json
import os
import shutil
import time
import uuid
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from quantpipe.core.entry import raise_it
from quantpipe.core.lock import exclusive_lock_or_busy, unshared_lock
from quantpipe.core.run_cache import RunCache, folder_size
from quantpipe.errors import ArtifactError, BusyError
from quantpipe.files import make_folder, sync_directory

_MANIFEST = "manifest.json"
_STATUS = "status.json"
_DAY = 86_400.0
# Between the runs of a series nobody holds what the next of them will want.
_IN_USE_SECONDS = 3_600.0


# Beside the results: what long work saved of steps that are not finished, and damaged results.
BESIDE = {"progress": "saved progress", "quarantine": "set aside"}


@dataclass(frozen=True, kw_only=True)
class Kept:
    """A result in the store, or what lies beside the results.

    Attributes:
        key: Its content key.
        folder: Where it lies.
        stage: What made it; ``material`` for what steps share (generated images, statistics), ``?``
            where the manifest is damaged; ``saved progress`` of a step that is not finished, and
            ``set aside`` for a damaged result.
        size: Bytes.
        used: When it was made, last written or last reused, in seconds since 1970.
        referred: Whether a run directory refers to it.
    """

    key: str
    folder: Path
    stage: str
    size: int
    used: float
    referred: bool


@dataclass(frozen=True, kw_only=True)
class Pruned:
    """What pruning removed, what it had to leave because a process holds it, and what stays."""

    removed: tuple[Kept, ...]
    busy: tuple[Kept, ...]
    kept: tuple[Kept, ...]
    leftover_bytes: int


def listed(cache_root: Path, runs: Path) -> tuple[Kept, ...]:
    """The results in the store, the longest unused first."""
    return _listed(cache_root, _referred_keys(runs))


def beside_results(cache_root: Path) -> tuple[Kept, ...]:
    """Saved progress and damaged results that were set aside, the longest unused first."""
    found = (
        Kept(
            key=folder.name.partition(".")[0],
            folder=folder,
            stage=stage,
            size=folder_size(folder),
            used=_newest(folder),
            referred=False,
        )
        for place, stage in BESIDE.items()
        for folder in (cache_root / place).glob("*")
    )
    return _in_order(found)


def _in_order(entries: Iterable[Kept]) -> tuple[Kept, ...]:
    return tuple(sorted(entries, key=lambda kept: (kept.used, kept.key)))


def _listed(cache_root: Path, referred: Collection[str]) -> tuple[Kept, ...]:
    folders = (path for path in (cache_root / "objects").glob("??/*") if path.is_dir())
    described = (_described(folder, folder.name in referred) for folder in folders)
    found = (kept for kept in described if kept is not None)
    return _in_order(found)


def verified(
    cache: RunCache, entries: Iterable[Kept], *, still_wanted: Callable[[], None]
) -> tuple[tuple[Kept, str], ...]:
    """Reads every entry and compares it with its digests; sets aside and returns damaged ones.

    Args:
        cache: The store.
        entries: From :func:`listed`.
        still_wanted: Ends the work by raising; nothing is lost by that.
    """
    damaged = []
    for kept in entries:
        still_wanted()
        fault = cache.set_aside_if_damaged(kept.key)
        if fault:
            damaged.append((kept, fault))
    return tuple(damaged)


def prune(
    cache_root: Path, runs: Path, *, max_age_days: float | None, max_bytes: int | None, now: float
) -> Pruned:
    """Removes what no run refers to: what is too old, then the oldest until the rest fits.

    That is results, saved progress, and damaged results that were set aside. What was used within
    the last hour stays, and so does what a process makes or reads. Leftovers of killed writers go
    always.

    Args:
        cache_root: The store.
        runs: A folder with run directories anywhere below.
        max_age_days: Since the last use; None prunes nothing by age.
        max_bytes: What the store may hold; None prunes nothing by size.
        now: Seconds since 1970.

    Raises:
        ArtifactError: A run's manifest cannot be read, so what it refers to is unknown.
    """
    results = _listed(cache_root, _referred_keys(runs, strict=True))
    entries = _in_order((*results, *beside_results(cache_root)))
    chosen = {kept.folder for kept in _chosen(entries, max_age_days, max_bytes, now)}
    removed: list[Kept] = []
    busy: list[Kept] = []
    stay: list[Kept] = []
    for kept in entries:
        if kept.folder not in chosen:
            stay.append(kept)
            continue
        remove = _remove_unchanged if kept.stage in BESIDE.values() else _remove_unused
        done = _locked(cache_root, kept.key, partial(remove, cache_root, kept))
        (removed if done else busy).append(kept)
    return Pruned(
        removed=tuple(removed),
        busy=tuple(busy),
        kept=tuple(stay),
        leftover_bytes=_clear_leftovers(cache_root),
    )


def _chosen(
    entries: Collection[Kept], max_age_days: float | None, max_bytes: int | None, now: float
) -> list[Kept]:
    total = sum(kept.size for kept in entries)
    chosen = []
    for kept in entries:
        if kept.referred or now - kept.used < _IN_USE_SECONDS:
            continue
        too_old = max_age_days is not None and now - kept.used > max_age_days * _DAY
        too_much = max_bytes is not None and total > max_bytes
        if too_old or too_much:
            chosen.append(kept)
            total -= kept.size
    return chosen


def _described(folder: Path, referred: bool) -> Kept | None:
    """None where it was removed as we look."""
    try:
        used = folder.stat().st_mtime
    except FileNotFoundError:
        return None
    kept = Kept(
        key=folder.name,
        folder=folder,
        stage="?",
        size=folder_size(folder),
        used=used,
        referred=referred,
    )
    try:
        identity = json.loads((folder / _MANIFEST).read_bytes())["identity"]
        return replace(kept, stage=str(identity.get("stage", "material")))
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return kept


def _referred_keys(runs: Path, *, strict: bool = False) -> frozenset[str]:
    """The keys in the manifests of all run directories below a folder, links followed."""
    keys: set[str] = set()
    for manifest in _manifests(runs) if runs.is_dir() else ():
        try:
            steps = json.loads(manifest.read_bytes())["steps"]
            keys.update(str(record["key"]) for record in steps.values())
        except FileNotFoundError:
            continue
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            if strict and (manifest.parent / _STATUS).exists():
                hint = "run it again, or remove it if nobody wants its results"
                cause = "cannot be read, so the results of this run would not be kept"
                raise ArtifactError(cause, path=manifest, hint=hint) from error
    return frozenset(keys)


def _manifests(runs: Path) -> Iterator[Path]:
    seen = set()
    for parent, folders, files in os.walk(runs, onerror=raise_it, followlinks=True):
        status = Path(parent).stat()
        place = (status.st_dev, status.st_ino)
        if place in seen:
            folders.clear()
            continue
        seen.add(place)
        if _MANIFEST in files:
            yield Path(parent) / _MANIFEST


def _locked(cache_root: Path, key: str, work: Callable[[], bool]) -> bool:
    """Does the work under the lock of a key, or returns False where a process holds it."""
    try:
        with exclusive_lock_or_busy(cache_root / "locks" / f"{key}.lock"):
            return work()
    except BusyError:
        return False


def _remove_unused(cache_root: Path, kept: Kept) -> bool:
    """Removes an entry unless somebody has begun to use it since it was listed."""
    with unshared_lock(kept.folder / _MANIFEST):
        if not kept.folder.exists():
            return True
        if kept.folder.stat().st_mtime > kept.used:
            return False
        _remove(cache_root, kept.folder)
    return True


def _remove_unchanged(cache_root: Path, kept: Kept) -> bool:
    """Removes a folder unless something in it was written since it was listed."""
    if not kept.folder.exists():
        return True
    if _newest(kept.folder) > kept.used:
        return False
    _remove(cache_root, kept.folder)
    return True


def _remove(cache_root: Path, folder: Path) -> None:
    """Takes a folder out of sight by one rename, then removes it: no half of it is ever found."""
    place = cache_root / "staging" / f"{folder.name}.{uuid.uuid4().hex}"
    make_folder(place.parent)
    folder.rename(place)
    for parent in (place.parent, folder.parent):
        sync_directory(parent)
    shutil.rmtree(place)


def _clear_leftovers(cache_root: Path) -> int:
    """Removes what killed writers left; returns the bytes."""
    freed = 0
    for path in (cache_root / "staging").glob("*"):
        size = folder_size(path)
        if _locked(cache_root, path.name.partition(".")[0], partial(_remove_tree, path)):
            freed += size
    return freed


def _remove_tree(folder: Path) -> bool:
    shutil.rmtree(folder, ignore_errors=True)
    return not folder.exists()


def _newest(folder: Path) -> float:
    with suppress(OSError):
        return max(path.stat().st_mtime for path in (folder, *folder.rglob("*")))
    return time.time()  # it changes as we look: in use
