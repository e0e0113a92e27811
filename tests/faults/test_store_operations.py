from __future__ import annotations

import fcntl
import os
import sys
from pathlib import Path
from typing import Any

import pytest
from faults.store_disk import Disk
from faults.store_operations import Operation, located, watched
from faults.store_processes import in_child
from faults.store_scenarios import SCENARIOS
from faults.store_world import World, contents

_AUDITED = {
    "open": ("open", "create"),
    "os.mkdir": ("mkdir",),
    "os.rename": ("rename",),
    "os.remove": ("unlink",),
    "os.rmdir": ("rmdir",),
    "os.utime": ("utime",),
    "os.truncate": ("truncate",),
    "os.chmod": ("chmod",),
    "os.link": ("link",),
    "os.symlink": ("symlink",),
    "os.scandir": ("list",),
    "os.listdir": ("list",),
    "fcntl.flock": ("flock",),
}
_SEEN = {kind for kinds in _AUDITED.values() for kind in kinds}


def watched_and_audited(scenario: str, world: World) -> tuple[list[Operation], list[str]]:
    """The watcher's own list, and that of the interpreter."""
    audited: list[str] = []
    operations = watched(world.root)

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if event not in _AUDITED:
            return
        if event == "os.symlink" or event == "os.link" or event == "os.rename":
            place = located(arguments[1])
        else:
            directory = arguments[1] if event in ("os.remove", "os.rmdir") else None
            directory = arguments[2] if event == "os.mkdir" else directory
            place = located(arguments[0], None if directory in (None, -1) else directory)
        # A descriptor that is wrapped in a file was opened before; only a tree that is removed
        # has its folders opened by their bare names.
        wrapped = event == "open" and isinstance(arguments[0], int)
        bare = event == "open" and "/" not in str(arguments[0])
        if (place.startswith(str(world.root)) or bare) and not wrapped:
            audited.append(event)

    sys.addaudithook(hook)
    SCENARIOS[scenario].act(world)
    return list(operations), list(audited)


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_python_reports_no_operation_that_was_not_watched(scenario: str, tmp_path: Path) -> None:
    world = World(tmp_path)
    SCENARIOS[scenario].prepare(world)
    ended = in_child(lambda: watched_and_audited(scenario, world))
    assert ended.code == 0, ended.trace
    operations, audited = ended.value
    seen = [operation.kind for operation in operations if operation.kind in _SEEN]
    assert len(seen) == len(audited) > 20
    assert all(kind in _AUDITED[event] for kind, event in zip(seen, audited, strict=True))


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_doing_the_watched_operations_again_gives_the_same_bytes(
    scenario: str, tmp_path: Path
) -> None:
    """Nothing that changes a byte or a name goes past the watcher."""
    world = World(tmp_path / "world")
    world.folder.mkdir()
    SCENARIOS[scenario].prepare(world)
    disk = Disk.of(world.root)
    ended = in_child(lambda: watched_and_audited(scenario, world))
    for operation in ended.value[0]:
        disk.do(operation)
    disk.write_all(tmp_path / "again")
    assert contents(tmp_path / "again") == contents(world.root)


def use_everything(folder: Path) -> list[Operation]:
    operations = watched(folder)
    (folder / "a").write_bytes(b"12345")
    with (folder / "a").open("ab") as file:
        file.write(b"67")
    with (folder / "a").open("r+b") as file:
        file.truncate(6)
        file.seek(1)
        file.write(b"x")
        file.flush()
        os.fsync(file)
        fcntl.flock(file, fcntl.LOCK_SH)
    descriptor = os.open(folder / "b", os.O_WRONLY | os.O_CREAT)
    os.write(descriptor, b"raw")
    os.fdatasync(descriptor)
    os.close(descriptor)
    os.link(folder / "b", folder / "c")
    (folder / "d").symlink_to("b")
    (folder / "c").chmod(0o600)
    os.truncate(folder / "b", 2)
    (folder / "c").replace(folder / "e")
    (folder / "text").write_text("text")
    assert (folder / "text").read_text() == "text"
    return list(operations)


def test_every_way_to_write_is_watched(tmp_path: Path) -> None:
    ended = in_child(lambda: use_everything(tmp_path))
    assert ended.code == 0, ended.trace
    kinds = [operation.kind for operation in ended.value if operation.kind != "read"]
    assert kinds == [
        *("create", "write", "create", "write", "create", "truncate", "write", "fsync", "flock"),
        *("create", "write", "fsync", "link", "symlink", "chmod", "truncate", "rename"),
        *("create", "write", "open"),
    ]
    writes = [(o.data, o.offset) for o in ended.value if o.kind == "write"]
    assert writes == [(b"12345", 0), (b"67", 5), (b"x", 1), (b"raw", 0), (b"text", 0)]
    assert (tmp_path / "a").read_bytes() == b"1x3456"
