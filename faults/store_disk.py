"""What a disk still has when the machine stops in the middle of a trace of operations.

The model is the pessimist's reading of POSIX: bytes are safe once their file was synced, names once
their folder was.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from faults.store_operations import Operation

CHANGE_NOTHING = frozenset({"open", "read", "list", "flock", "utime", "chmod", "note"})


@dataclass(eq=False)
class _File:
    content: bytearray = field(default_factory=bytearray)
    synced: bytes | None = None  # None: not even its length


@dataclass(eq=False)
class _Folder:
    names: dict[str, _File | _Folder] = field(default_factory=dict)
    synced: dict[str, _File | _Folder] = field(default_factory=dict)
    modified: float | None = None  # None: since we look


class Disk:
    """The folders and files below ``root``, as the kernel has them and as the disk does."""

    def __init__(self, root: str):
        self._root = root
        self._top = _Folder()

    @staticmethod
    def of(root: Path) -> Disk:
        """What is there already, all of it safe."""
        disk = Disk(str(root))
        for path in sorted(root.rglob("*")):
            folder = disk._folder(str(path.parent))
            content = bytearray() if path.is_dir() else bytearray(path.read_bytes())
            made: _File | _Folder = _File(content, bytes(content))
            if path.is_dir():
                made = _Folder(modified=path.stat().st_mtime)
            folder.names[path.name] = folder.synced[path.name] = made
        return disk

    def do(self, operation: Operation) -> None:
        """Does what the kernel does for an operation."""
        if operation.failed or operation.kind in CHANGE_NOTHING:
            return
        if operation.path == self._root:
            if operation.kind == "fsync":
                self._sync(self._top)
            return
        getattr(self, f"_{operation.kind}")(operation)

    def write_all(self, folder: Path) -> None:
        """Writes everything, as if nothing had been lost."""
        _written(self._top, folder, names=lambda f: f.names, content=lambda f: bytes(f.content))

    def write_safe(self, folder: Path, *, with_names: bool) -> None:
        """Writes what a power cut leaves; ``with_names`` keeps the names of what was not synced."""
        _written(
            self._top,
            folder,
            names=lambda f: f.names if with_names else f.synced,
            content=lambda f: f.synced or b"",
        )

    def entries(self) -> Iterator[str]:
        """The keys below ``cache/objects``."""
        found: _File | _Folder | None = self._top
        for name in ("cache", "objects"):
            found = found.names.get(name) if isinstance(found, _Folder) else None
        if isinstance(found, _Folder):
            for shelf in found.names.values():
                assert isinstance(shelf, _Folder)
                yield from shelf.names

    def _create(self, operation: Operation) -> None:
        folder, name = self._place(operation.path)
        made = folder.names.setdefault(name, _File())
        if operation.target == "emptied" and isinstance(made, _File):
            made.content.clear()

    def _write(self, operation: Operation) -> None:
        file = self._file(operation.path)
        end = operation.offset + len(operation.data)
        file.content.extend(b"\0" * (end - len(file.content)))
        file.content[operation.offset : end] = operation.data

    _copy = _write

    def _fsync(self, operation: Operation) -> None:
        folder, name = self._place(operation.path)
        self._sync(folder.names[name])

    def _sync(self, found: _File | _Folder) -> None:
        if isinstance(found, _File):
            found.synced = bytes(found.content)
            return
        found.synced = dict(found.names)
        # A journal keeps both ends of a rename or neither.
        for other in _folders(self._top):
            if other is not found:
                arrived = set(map(id, found.synced.values())) - set(map(id, other.names.values()))
                other.synced = {
                    name: kept for name, kept in other.synced.items() if id(kept) not in arrived
                }

    def _mkdir(self, operation: Operation) -> None:
        folder, name = self._place(operation.path)
        folder.names[name] = _Folder()

    def _rename(self, operation: Operation) -> None:
        source, name = self._place(operation.path)
        target, new = self._place(operation.target)
        target.names[new] = source.names.pop(name)

    def _unlink(self, operation: Operation) -> None:
        folder, name = self._place(operation.path)
        folder.names.pop(name, None)

    _rmdir = _unlink

    def _place(self, path: str) -> tuple[_Folder, str]:
        parent, _, name = path.rpartition("/")
        return self._folder(parent), name

    def _folder(self, path: str) -> _Folder:
        found: _File | _Folder = self._top
        for name in path[len(self._root) :].split("/"):
            if name:
                assert isinstance(found, _Folder)
                found = found.names[name]
        assert isinstance(found, _Folder)
        return found

    def _file(self, path: str) -> _File:
        folder, name = self._place(path)
        found = folder.names[name]
        assert isinstance(found, _File)
        return found


def _folders(folder: _Folder) -> Iterator[_Folder]:
    yield folder
    for found in {
        id(kept): kept for kept in (*folder.names.values(), *folder.synced.values())
    }.values():
        if isinstance(found, _Folder):
            yield from _folders(found)


def _written(
    folder: _Folder,
    place: Path,
    *,
    names: Callable[[_Folder], dict[str, _File | _Folder]],
    content: Callable[[_File], bytes],
) -> None:
    place.mkdir(parents=True, exist_ok=True)
    for name, found in names(folder).items():
        if isinstance(found, _Folder):
            _written(found, place / name, names=names, content=content)
        else:
            (place / name).write_bytes(content(found))
    if folder.modified is not None:
        os.utime(place, (folder.modified, folder.modified))
