"""Writing a file so that it is there whole or not at all, and naming its content."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

_BLOCK = 1 << 20
_TEMPORARY = re.compile(r"\..+\.[0-9a-f]{32}\.tmp")
# A disk, a quota, a limit on the size of files.
FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})


class NoRoomError(OSError):
    """There is no room for ``needed`` bytes at a path; there may be need for more."""

    def __init__(self, cause: OSError, path: Path, needed: int):
        super().__init__(cause.errno, cause.strerror, str(path))
        self.needed = needed


def sha256_bytes(content: bytes) -> str:
    """Returns the hexadecimal SHA-256 of ``content``."""
    return hashlib.sha256(content).hexdigest()


def sha256_file(path: Path) -> str:
    """Returns the hexadecimal SHA-256 of a file, read in blocks."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(_BLOCK):
            digest.update(block)
    return digest.hexdigest()


def canonical_json(value: Mapping[str, Any]) -> str:
    """Returns the one JSON text of ``value``: sorted keys, no spaces, no NaN."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)


def write_atomic(path: Path, content: bytes) -> None:
    """Writes ``content`` to a sibling, syncs it, and renames it over ``path``.

    Raises:
        NoRoomError: The disk is full.
        OSError: Nothing is left behind, and ``path`` is what it was or, where only its folder
            could not be synced, whole and new.
    """
    with faults_named(path, len(content)):
        make_folder(path.parent)
        temporary = temporary_beside(path)
        try:
            with temporary.open("wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        sync_directory(path.parent)


@contextmanager
def faults_named(path: Path, size: int) -> Iterator[None]:
    """Gives the faults of writing ``size`` bytes to ``path`` what the system leaves out.

    Raises:
        NoRoomError: In place of an error that says that the disk is full.
        OSError: With the path.
    """
    try:
        yield
    except OSError as error:
        if error.errno in FULL:
            raise NoRoomError(error, path, size) from error
        if error.filename is None:
            error.filename = str(path)
        raise


def make_folder(path: Path) -> None:
    """Makes a folder and those above it, durably."""
    missing = []
    while not path.exists():
        missing.append(path)
        path = path.parent
    for folder in reversed(missing):
        folder.mkdir(exist_ok=True)
        sync_directory(folder.parent)


def temporary_beside(path: Path) -> Path:
    """A name in the folder of ``path`` to write under before the rename."""
    return path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")


def remove_leftovers(folder: Path, name: str = "*") -> None:
    """Removes what killed writers of files called ``name`` left anywhere below ``folder``.

    Only for whoever holds the lock that its writers hold.
    """
    for path in folder.rglob(f".{name}.*.tmp"):
        if _TEMPORARY.fullmatch(path.name):
            path.unlink(missing_ok=True)


def write_json(path: Path, value: Any) -> None:
    """Writes ``value`` as indented JSON, atomically; NaN and infinities are refused."""
    text = json.dumps(value, indent=2, sort_keys=False, allow_nan=False)
    write_atomic(path, (text + "\n").encode())


def sync_directory(path: Path) -> None:
    """Makes the names in a directory durable."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
