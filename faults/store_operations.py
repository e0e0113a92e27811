"""Sees every file operation below a folder before it happens, and may disturb it.

Python reaches the disk through a few functions of ``os``, through ``open`` and through
``fcntl.flock``; all are replaced in the process that calls :func:`watched`, which must be a fork
that ends soon. Two independent witnesses, Python's audit events and a replay of the recorded
operations into an empty folder, show in the tests that none is missed.
"""

from __future__ import annotations

import builtins
import errno
import fcntl
import io
import os
import signal
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

T = TypeVar("T")

READS = frozenset({"open", "read", "list"})
# What a disk without room refuses.
GROWS = frozenset({"create", "write", "copy", "mkdir", "fsync", "rename", "symlink", "link"})


@dataclass(frozen=True, kw_only=True)
class Operation:
    """One call that reaches the disk.

    Attributes:
        kind: ``create`` (a file opened for writing), ``write``, ``copy`` (inside the kernel),
            ``fsync``, ``rename``, ``mkdir``, ``unlink``, ``rmdir``, ``truncate``, ``utime``,
            ``chmod``, ``link``, ``symlink``, ``flock``; ``open``, ``read`` and ``list`` only read.
        path: What it acts on.
        target: Where to (``rename``, ``link``).
        data: What is written.
        offset: Where in the file.
        failed: Whether it raised, as a search for a file that is not there does.
    """

    kind: str
    path: str
    target: str = ""
    data: bytes = b""
    offset: int = 0
    failed: bool = False


# Called with the number of the operation (from 1), the operation, and what does half of a write.
Disturb = Callable[[int, Operation, Callable[[], object]], None]


def undisturbed(number: int, operation: Operation, half: Callable[[], object]) -> None:
    """Lets everything happen."""


def killed_at(chosen: int) -> Disturb:
    """Ends this process before the chosen operation, as nothing can prevent."""

    def disturb(number: int, operation: Operation, half: Callable[[], object]) -> None:
        if number == chosen:
            os.kill(os.getpid(), signal.SIGKILL)

    return disturb


def torn_at(chosen: int) -> Disturb:
    """Ends this process when half of the chosen write is done."""

    def disturb(number: int, operation: Operation, half: Callable[[], object]) -> None:
        if number == chosen:
            half()
            os.kill(os.getpid(), signal.SIGKILL)

    return disturb


def failing_at(chosen: int, error: int) -> Disturb:
    """Fails the chosen operation; a write has half of its bytes on the disk already."""

    def disturb(number: int, operation: Operation, half: Callable[[], object]) -> None:
        if number == chosen:
            half()
            raise OSError(error, os.strerror(error))

    return disturb


def failing_from(chosen: int, error: int, kinds: Iterable[str]) -> Disturb:
    """Fails the chosen operation and all later ones of these kinds: a disk that stays full.

    A file or folder that is there already can still be opened or found.
    """
    refused = frozenset(kinds)

    def disturb(number: int, operation: Operation, half: Callable[[], object]) -> None:
        if number < chosen or operation.kind not in refused:
            return
        there = operation.kind in ("create", "mkdir") and Path(operation.path).exists()
        if not there or error == errno.EROFS:
            raise OSError(error, os.strerror(error))

    return disturb


class _Watcher:
    """Numbers the operations below ``root`` and lets ``disturb`` act before each."""

    def __init__(self, root: Path, disturb: Disturb):
        self._root = f"{root}/"
        self._whole = str(root)
        self._disturb = disturb
        self.operations: list[Operation] = []

    def concerns(self, path: str) -> bool:
        return path.startswith(self._root) or path == self._whole

    def do(
        self, operation: Operation, work: Callable[[], T], half: Callable[[], object] = lambda: None
    ) -> T:
        number = len(self.operations)
        self.operations.append(operation)
        self._disturb(number + 1, operation, half)
        try:
            return work()
        except BaseException:
            self.operations[number] = replace(operation, failed=True)
            raise


# Change calls of the system as the store sees them: what they leave out is not seen below.
OVER_THE_WATCHER: list[Callable[[], None]] = []


def watched(root: Path, disturb: Disturb = undisturbed) -> list[Operation]:
    """Watches all that this process does below ``root`` from now on, until it ends.

    Returns:
        The operations, growing as they happen; the last may have failed.
    """
    watcher = _Watcher(root, disturb)
    for name, kind in _PATH_CALLS.items():
        setattr(os, name, _on_path(watcher, getattr(os, name), kind))
    for name, kind in _DESCRIPTOR_CALLS.items():
        setattr(os, name, _on_descriptor(watcher, getattr(os, name), kind))
    for name in ("rename", "replace", "link", "symlink"):
        setattr(os, name, _on_two_paths(watcher, getattr(os, name), name))
    os.open = _os_open(watcher, os.open)
    os.write = _os_write(watcher, os.write)
    os.copy_file_range = _os_copy(watcher, os.copy_file_range)
    fcntl.flock = _on_descriptor(watcher, fcntl.flock, "flock")
    opened = _file_open(watcher, builtins.open)
    for module in (builtins, io, __import__("_io")):
        module.open = opened  # type: ignore[attr-defined]
    for change in OVER_THE_WATCHER:
        change()
    return watcher.operations


_PATH_CALLS = {
    "mkdir": "mkdir",
    "unlink": "unlink",
    "remove": "unlink",
    "rmdir": "rmdir",
    "utime": "utime",
    "truncate": "truncate",
    "chmod": "chmod",
    "scandir": "list",
    "listdir": "list",
}
_DESCRIPTOR_CALLS = {"fsync": "fsync", "fdatasync": "fsync", "ftruncate": "truncate"}
_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC


def located(path: Any, dir_fd: int | None = None) -> str:
    """The absolute path that a call means: a path, a descriptor, or a name in an open folder."""
    if isinstance(path, int):
        return _of_descriptor(path)
    text = os.fsdecode(path)
    if dir_fd is not None:
        text = f"{_of_descriptor(dir_fd)}/{text}"
    return os.path.abspath(text)  # noqa: PTH100 - resolve() would follow links


def _of_descriptor(number: int) -> str:
    return str(Path(f"/proc/self/fd/{number}").readlink()).removesuffix(" (deleted)")


def _on_path(watcher: _Watcher, call: Callable[..., Any], kind: str) -> Callable[..., Any]:
    def traced(path: Any = ".", *more: Any, dir_fd: int | None = None, **named: Any) -> Any:
        place = located(path, dir_fd)
        given = named if dir_fd is None else {**named, "dir_fd": dir_fd}
        if not watcher.concerns(place):
            return call(path, *more, **given)
        return watcher.do(Operation(kind=kind, path=place), lambda: call(path, *more, **given))

    return traced


def _on_two_paths(watcher: _Watcher, call: Callable[..., Any], name: str) -> Callable[..., Any]:
    kind = "rename" if name == "replace" else name

    def traced(source: Any, target: Any, *more: Any, **named: Any) -> Any:
        origin = os.fsdecode(source) if kind == "symlink" else located(source)
        place = located(target)
        if not watcher.concerns(place):
            return call(source, target, *more, **named)
        operation = Operation(kind=kind, path=origin, target=place)
        return watcher.do(operation, lambda: call(source, target, *more, **named))

    return traced


def _on_descriptor(watcher: _Watcher, call: Callable[..., Any], kind: str) -> Callable[..., Any]:
    def traced(fd: Any, *more: Any) -> Any:
        number = fd if isinstance(fd, int) else fd.fileno()
        place = located(number)
        if not watcher.concerns(place):
            return call(fd, *more)
        return watcher.do(Operation(kind=kind, path=place), lambda: call(fd, *more))

    return traced


def _os_open(watcher: _Watcher, call: Callable[..., int]) -> Callable[..., int]:
    def traced(path: Any, flags: int, mode: int = 0o777, *, dir_fd: int | None = None) -> int:
        place = located(path, dir_fd)
        if not watcher.concerns(place):
            return call(path, flags, mode, dir_fd=dir_fd)
        operation = _opening(place, bool(flags & _WRITING), bool(flags & os.O_TRUNC))
        return watcher.do(operation, lambda: call(path, flags, mode, dir_fd=dir_fd))

    return traced


def _opening(place: str, writing: bool, emptied: bool) -> Operation:
    if not writing:
        return Operation(kind="open", path=place)
    return Operation(kind="create", path=place, target="emptied" if emptied else "")


def _os_write(watcher: _Watcher, call: Callable[..., int]) -> Callable[..., int]:
    def traced(fd: int, data: Any) -> int:
        count: int = _written(watcher, fd, data, lambda content: call(fd, content))
        return count

    return traced


def _written(watcher: _Watcher, fd: int, data: Any, write: Callable[[Any], Any]) -> Any:
    place = located(fd)
    if not watcher.concerns(place):
        return write(data)
    content = bytes(data)
    operation = Operation(kind="write", path=place, data=content, offset=_position(fd))
    return watcher.do(operation, lambda: write(data), lambda: write(content[: len(content) // 2]))


def _position(fd: int) -> int:
    if fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_APPEND:
        return os.fstat(fd).st_size
    return os.lseek(fd, 0, os.SEEK_CUR)


def _os_copy(watcher: _Watcher, call: Callable[..., int]) -> Callable[..., int]:
    def traced(source: int, target: int, count: int, *more: Any) -> int:
        place = located(target)
        if not watcher.concerns(place):
            return call(source, target, count, *more)
        data = os.pread(source, count, os.lseek(source, 0, os.SEEK_CUR))
        operation = Operation(kind="copy", path=place, data=data, offset=_position(target))
        return watcher.do(
            operation,
            lambda: call(source, target, count, *more),
            lambda: call(source, target, len(data) // 2),
        )

    return traced


def _traced_file(watcher: _Watcher) -> type[io.FileIO]:
    class TracedFile(io.FileIO):
        """The lowest layer of ``open``, where bytes meet the kernel."""

        def write(self, data: Any) -> Any:
            return _written(watcher, self.fileno(), data, super().write)

        def readinto(self, buffer: Any) -> Any:
            return self._read(lambda: super(TracedFile, self).readinto(buffer))

        def readall(self) -> Any:
            return self._read(super().readall)

        def read(self, size: int | None = -1) -> Any:
            if size is None or size < 0:
                return self.readall()
            return self._read(lambda: super(TracedFile, self).read(size))

        def truncate(self, size: int | None = None) -> int:
            operation = Operation(kind="truncate", path=located(self.fileno()))
            return watcher.do(operation, lambda: super(TracedFile, self).truncate(size))

        def _read(self, work: Callable[[], T]) -> T:
            return watcher.do(Operation(kind="read", path=located(self.fileno())), work)

    return TracedFile


def _file_open(watcher: _Watcher, call: Callable[..., Any]) -> Callable[..., Any]:
    traced_file = _traced_file(watcher)

    def traced(
        file: Any,
        mode: str = "r",
        buffering: int = -1,
        encoding: str | None = None,
        errors: str | None = None,
        newline: str | None = None,
        closefd: bool = True,
        opener: Any = None,
    ) -> Any:
        place = located(file)
        if not watcher.concerns(place):
            return call(file, mode, buffering, encoding, errors, newline, closefd, opener)
        plain = mode.replace("b", "").replace("t", "")
        if isinstance(file, int):
            raw = traced_file(file, plain, closefd, opener)
        else:
            operation = _opening(place, plain != "r", "w" in plain)
            raw = watcher.do(operation, lambda: traced_file(file, plain, closefd, opener))
        return _layered(raw, mode, buffering, encoding, errors, newline)

    return traced


def _layered(
    raw: io.FileIO,
    mode: str,
    buffering: int,
    encoding: str | None,
    errors: str | None,
    newline: str | None,
) -> Any:
    """The layers that ``open`` puts on a raw file."""
    if buffering == 0:
        return raw
    if raw.readable() and raw.writable():
        buffered: Any = io.BufferedRandom(raw)
    else:
        buffered = io.BufferedWriter(raw) if raw.writable() else io.BufferedReader(raw)
    if "b" in mode:
        return buffered
    return io.TextIOWrapper(buffered, encoding, errors, newline, buffering == 1)
