"""Looking after the store of results: list, verify and prune, under the locks that runs take."""

from __future__ import annotations

import json
import shutil
import time
import uuid
from collections.abc import Callable, Collection, Iterable
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from quantpipe.core.lock import held_or_busy
from quantpipe.core.run_cache import RunCache
from quantpipe.errors import BusyError

_MANIFEST = "manifest.json"
_DAY = 86_400.0
# A run that found a result goes on reading it without its lock.
_IN_USE_SECONDS = 3_600.0


@dataclass(frozen=True, kw_only=True)
class Kept:
    """A result in the store.

    Attributes:
        key: Its content key.
        folder: Where it lies.
        stage: What made it; ``material`` for what steps share (generated images, statistics), ``?``
            where the manifest is damaged.
        size: Bytes.
        used: When it was made or last reused, in seconds since 1970.
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
    """Everything in the store, the longest unused first."""
    referred = _referred_keys(runs)
    folders = (path for path in (cache_root / "objects").glob("??/*") if path.is_dir())
    found = (_described(folder, folder.name in referred) for folder in folders)
    return tuple(sorted(found, key=lambda kept: (kept.used, kept.key)))


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
    """Removes results that no run refers to: those too old, then the oldest until the rest fit.

    What was used within the last hour stays, and so does what a process holds. Saved progress and
    damaged entries that were set aside go by the same age, leftovers of killed writers always.

    Args:
        cache_root: The store.
        runs: A folder with run directories anywhere below.
        max_age_days: Since the last use; None prunes nothing by age.
        max_bytes: What the store may hold; None prunes nothing by size.
        now: Seconds since 1970.
    """
    entries = listed(cache_root, runs)
    chosen = {kept.key for kept in _chosen(entries, max_age_days, max_bytes, now)}
    removed: list[Kept] = []
    busy: list[Kept] = []
    stay: list[Kept] = []
    for kept in entries:
        if kept.key not in chosen:
            stay.append(kept)
            continue
        done = _locked(cache_root, kept.key, partial(_remove, cache_root, kept.folder))
        (removed if done else busy).append(kept)
    return Pruned(
        removed=tuple(removed),
        busy=tuple(busy),
        kept=tuple(stay),
        leftover_bytes=_clear_leftovers(cache_root, max_age_days, now),
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


def _described(folder: Path, referred: bool) -> Kept:
    kept = Kept(
        key=folder.name,
        folder=folder,
        stage="?",
        size=_size(folder),
        used=folder.stat().st_mtime,
        referred=referred,
    )
    try:
        identity = json.loads((folder / _MANIFEST).read_bytes())["identity"]
        return replace(kept, stage=str(identity.get("stage", "material")))
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return kept


def _referred_keys(runs: Path) -> frozenset[str]:
    """The keys in the manifests of all run directories below a folder."""
    keys: set[str] = set()
    for manifest in runs.rglob(_MANIFEST):
        with suppress(OSError, ValueError, KeyError, TypeError, AttributeError):
            steps = json.loads(manifest.read_bytes())["steps"]
            keys.update(str(record["key"]) for record in steps.values())
    return frozenset(keys)


def _locked(cache_root: Path, key: str, work: Callable[[], None]) -> bool:
    """Does the work under the lock of a key, or returns False where a process holds it."""
    try:
        with held_or_busy(cache_root / "locks" / f"{key}.lock"):
            work()
    except BusyError:
        return False
    return True


def _remove(cache_root: Path, folder: Path) -> None:
    """Takes a folder out of sight by one rename, then removes it: no half of it is ever found."""
    place = cache_root / "staging" / f"{folder.name}.{uuid.uuid4().hex}"
    place.parent.mkdir(parents=True, exist_ok=True)
    folder.rename(place)
    shutil.rmtree(place)


def _clear_leftovers(cache_root: Path, max_age_days: float | None, now: float) -> int:
    """Removes what killed writers left, and old progress and quarantine; returns the bytes."""
    aged = [*(cache_root / "progress").glob("*"), *(cache_root / "quarantine").glob("*")]
    if max_age_days is None:
        aged = []
    old = [path for path in aged if now - _newest(path) > (max_age_days or 0.0) * _DAY]
    freed = 0
    for path in [*(cache_root / "staging").glob("*"), *old]:
        key = path.name.partition(".")[0]
        size = _size(path)
        if _locked(cache_root, key, partial(shutil.rmtree, path, ignore_errors=True)):
            freed += size
    return freed


def _newest(folder: Path) -> float:
    with suppress(OSError):
        return max(path.stat().st_mtime for path in (folder, *folder.rglob("*")))
    return time.time()  # it changes as we look: in use


def _size(folder: Path) -> int:
    size = 0
    for path in folder.rglob("*"):
        with suppress(OSError):
            size += path.stat().st_size if path.is_file() else 0
    return size
