"""``quantpipe cache=list|verify|prune``: the store's care and its tables."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from rich.console import Console
from rich.table import Table

from quantpipe.core.attribution import attribute_errors
from quantpipe.core.maintenance import BESIDE, Kept, beside_results, listed, prune, verified
from quantpipe.core.run_cache import RunCache
from quantpipe.core.signals import stop_on_signals
from quantpipe.errors import ArtifactError, ConfigurationError
from quantpipe.report.progress import watching
from quantpipe.schema import Between

_MIB, _GIB = 1 << 20, 1 << 30
_DAY = 86_400.0


@dataclass(frozen=True, kw_only=True)
class CacheSettings:
    """The ``cache`` group: what to do with the cache, and what ``prune`` may remove."""

    action: Literal["use", "list", "verify", "prune"]
    runs: Path
    max_age_days: Annotated[float | None, Between(0)]
    max_gib: Annotated[float | None, Between(0)]


def keep_house(settings: CacheSettings, cache_root: Path) -> None:
    """Does what ``cache.action`` says and prints what came of it.

    Raises:
        ConfigurationError: There is no cache at ``cache_root``, or ``prune`` does not find the run
            directories.
        MachineError: It cannot be changed.
        ArtifactError: ``verify`` found damaged entries; they were set aside.
    """
    root = cache_root.absolute()
    if not (root / "objects").is_dir():
        raise ConfigurationError(
            f"{root} holds no cache", path="cache_dir", hint="name the folder of one"
        )
    if settings.action == "prune" and not settings.runs.is_dir():
        raise ConfigurationError(
            f"{settings.runs.absolute()} is not there, so nothing would be kept for any run",
            path="cache.runs",
            hint="name the folder of the run directories",
        )
    with attribute_errors(None):
        _ACTIONS[settings.action](settings, root)


def _list(settings: CacheSettings, root: Path) -> None:
    entries = (*listed(root, settings.runs.absolute()), *beside_results(root))
    _print(_by_stage(entries), f"{root}: {_amount(entries)}")
    if not settings.runs.is_dir():
        print(f"{settings.runs.absolute()} (cache.runs) is not there: no run is known")  # noqa: T201


def _verify(settings: CacheSettings, root: Path) -> None:
    entries = listed(root, settings.runs.absolute())
    with stop_on_signals() as stop, watching(stop) as progress:
        cache = RunCache(root, warn=progress.note, still_wanted=stop.raise_if_set)
        shown = progress.track(entries, "verify", total=len(entries))
        damaged = verified(cache, shown, still_wanted=stop.raise_if_set)
    if damaged:
        first, fault = damaged[0]
        raise ArtifactError(
            f"{len(damaged)} of {len(entries)} results were damaged and set aside, "
            f"the first is {first.stage} {first.key[:12]} ({fault})",
            path=root,
            hint="the runs that need them make them again",
        )
    print(f"{root}: {_amount(entries)}, all whole")  # noqa: T201


def _prune(settings: CacheSettings, root: Path) -> None:
    pruned = prune(
        root,
        settings.runs.absolute(),
        max_age_days=settings.max_age_days,
        max_bytes=None if settings.max_gib is None else int(settings.max_gib * _GIB),
        now=time.time(),
    )
    _print(_by_stage(pruned.removed), f"removed {_amount(pruned.removed)}")
    leftovers = f", leftovers {pruned.leftover_bytes / _MIB:.1f} MiB"
    busy = f", {len(pruned.busy)} in use left alone" if pruned.busy else ""
    print(f"{root}: {_amount(pruned.kept)} stay{leftovers}{busy}")  # noqa: T201


_ACTIONS: Mapping[str, Callable[[CacheSettings, Path], None]] = {
    "list": _list,
    "verify": _verify,
    "prune": _prune,
}


def _by_stage(entries: Sequence[Kept]) -> Table:
    table = Table("stage", "number", "MiB", "kept by runs", "days unused")
    for stage in sorted({kept.stage for kept in entries}):
        own = [kept for kept in entries if kept.stage == stage]
        oldest = (time.time() - min(kept.used for kept in own)) / _DAY
        table.add_row(
            stage,
            str(len(own)),
            f"{_mib(own):.1f}",
            str(sum(kept.referred for kept in own)),
            f"{oldest:.1f}",
        )
    return table


def _print(table: Table, line: str) -> None:
    if table.row_count:
        Console().print(table)
    print(line)  # noqa: T201


def _amount(entries: Sequence[Kept]) -> str:
    """The number of results, what lies beside them, and the size of all."""
    num_beside = {stage: sum(kept.stage == stage for kept in entries) for stage in BESIDE.values()}
    num_results = len(entries) - sum(num_beside.values())
    amounts = [f"{num_results} result{'' if num_results == 1 else 's'}"]
    amounts += [f"{number} {stage}" for stage, number in num_beside.items() if number]
    return f"{', '.join(amounts)}, {_mib(entries):.1f} MiB"


def _mib(entries: Sequence[Kept]) -> float:
    return sum(kept.size for kept in entries) / _MIB
