"""In which order an entry reaches the disk, read off a trace of operations."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial

from faults.store_disk import CHANGE_NOTHING
from faults.store_operations import Operation
from faults.store_power import traced
from faults.store_processes import in_child, scratch
from faults.store_scenarios import SCENARIOS
from faults.store_world import World
from faults.tally import Tally

_MANIFEST = "manifest.json"


def run(seed: int, share: float) -> Tally:
    """Judges every entry that the scenarios publish; there is nothing random in it."""
    tally = Tally(campaign="order", rows=(2,), seed=seed)
    for name in ("publish", "pipeline", "rebuild", "takeover"):
        with scratch() as folder:
            world = World(folder)
            SCENARIOS[name].prepare(world)
            ended = in_child(partial(traced, SCENARIOS[name], world))
            assert ended.code == 0, ended.trace
        operations = [o for o in ended.value if not o.failed]
        for number in _publications(operations):
            tally.record(f"{name}, entry at {number}", order_problem(operations, number))
    return tally


def _publications(operations: Sequence[Operation]) -> Iterator[int]:
    """Where a staging folder becomes an entry."""
    for number, operation in enumerate(operations):
        if operation.kind == "rename" and "/objects/" in operation.target:
            yield number


def order_problem(operations: Sequence[Operation], renamed: int) -> str | None:
    """What of the rename at ``renamed`` comes too early or too late.

    Every file is synced before the manifest is begun; the manifest and every folder are synced
    before the rename; nothing of the entry changes after it; its new folder is synced before
    anything else is done.
    """
    staging, final = operations[renamed].path, operations[renamed].target
    before = [o for o in operations[:renamed] if f"{o.path}/".startswith(f"{staging}/")]
    manifest = next((n for n, o in enumerate(before) if _MANIFEST in o.path), None)
    if manifest is None:
        return "renamed before its manifest was written"
    written = {o.path for o in before if o.kind in ("create", "write", "copy")}
    for path in written:
        end = len(before) if _MANIFEST in path else manifest
        last = max(n for n, o in enumerate(before) if o.path == path and _changes(o))
        if not any(o.kind == "fsync" and o.path == path for o in before[last:end]):
            return f"{path.rpartition('/')[2]} was not synced in time"
    for folder in {staging, *(o.path for o in before if o.kind == "mkdir")}:
        last = max((n for n, o in enumerate(before) if _names_in(o, folder)), default=0)
        if not any(o.kind == "fsync" and o.path == folder for o in before[last:]):
            return f"the folder {folder.rpartition('/')[2][:12]} was not synced in time"
    after = [o for o in operations[renamed + 1 :] if o.kind not in CHANGE_NOTHING]
    if not after or after[0].kind != "fsync" or after[0].path != final.rpartition("/")[0]:
        return "its new folder was not synced at once"
    touched = next((o.kind for o in after if f"{o.path}/".startswith(f"{final}/")), None)
    return f"{touched} in a published entry" if touched and touched != "rename" else None


def _changes(operation: Operation) -> bool:
    return operation.kind in ("create", "write", "copy", "truncate")


def _names_in(operation: Operation, folder: str) -> bool:
    """Whether an operation changes the names in a folder."""
    if operation.kind not in ("create", "mkdir", "rename", "unlink", "rmdir"):
        return False
    places = (operation.path, operation.target)
    return any(place.rpartition("/")[0] == folder for place in places)
