"""Locks that a crash releases, and the name of whoever holds them."""

from __future__ import annotations

import fcntl
import json
import os
import socket
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import BaseFileLock, FileLock, Timeout

from quantpipe.errors import BusyError
from quantpipe.files import make_folder, remove_leftovers, temporary_beside

_POLL_SECONDS = 0.5


@contextmanager
def exclusive_lock(
    path: Path, *, waiting: Callable[[str], None], still_wanted: Callable[[], None]
) -> Iterator[None]:
    """Holds the lock file at ``path``, telling ``waiting`` who has it while another process does.

    ``still_wanted`` is called now and then during the wait, and ends it by raising. The kernel
    releases the lock with its process, and a fork does not inherit it; the file itself is never
    removed, since removing it would let two processes lock two files of one name.
    """
    lock = _lock(path)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        waiting(f"waiting for {_holder(path)}, which makes the same step")
        _wait(lock, still_wanted)
    with _signed(path, lock):
        yield


def _wait(lock: BaseFileLock, still_wanted: Callable[[], None]) -> None:
    while True:
        still_wanted()
        try:
            lock.acquire(timeout=_POLL_SECONDS)
        except Timeout:
            continue
        return


@contextmanager
def exclusive_lock_or_busy(path: Path) -> Iterator[None]:
    """Holds the lock file at ``path``, or raises :class:`BusyError` at once."""
    lock = _lock(path)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise BusyError(
            f"{_holder(path)} is running here",
            path=path.parent,
            hint="wait for it, or give this run its own run_dir",
        ) from None
    with _signed(path, lock):
        yield


class SharedLock:
    """A share in a file's lock, held as long as this object lives.

    A fork inherits it, and so may outlive its parent with it.
    """

    def __init__(self, descriptor: int):
        weakref.finalize(self, os.close, descriptor)


def shared_lock(path: Path) -> SharedLock | None:
    """Takes a share in the lock of a file that need not be writable.

    Returns:
        None where the file is not there or the file system has no such locks.

    Raises:
        BusyError: Somebody holds the file alone, or has just replaced it.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
    except OSError:
        return None
    share = SharedLock(descriptor)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        held, there = os.fstat(descriptor), path.stat()
    except BlockingIOError:
        raise BusyError("is held alone", path=path) from None
    except OSError:
        return None
    if (held.st_dev, held.st_ino) != (there.st_dev, there.st_ino):
        raise BusyError("was replaced", path=path)
    return share


@contextmanager
def unshared_lock(path: Path) -> Iterator[None]:
    """Holds the lock of a file alone, or raises :class:`BusyError` while others share it.

    A file that is not there needs no lock.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
    except FileNotFoundError:
        yield
        return
    except OSError as error:  # a link in its place, say
        raise BusyError(f"cannot be locked ({error.strerror})", path=path) from error
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise BusyError("a run uses it", path=path.parent) from None
        yield
    finally:
        os.close(descriptor)


@contextmanager
def _signed(path: Path, lock: BaseFileLock) -> Iterator[None]:
    try:
        signature = path.with_suffix(".holder")
        remove_leftovers(path.parent, signature.name)
        _sign(signature)
        yield
    finally:
        lock.release()


def _sign(signature: Path) -> None:
    """Names this process: for people, so neither synced nor a reason to fail.

    On a full disk the lock can still be had, or nothing could be pruned.
    """
    holder = {"pid": os.getpid(), "host": socket.gethostname()}
    temporary = temporary_beside(signature)
    try:
        temporary.write_text(json.dumps(holder))
        temporary.replace(signature)
    except OSError:
        for path in (temporary, signature):
            with suppress(OSError):
                path.unlink(missing_ok=True)


def _lock(path: Path) -> BaseFileLock:
    make_folder(path.parent)
    # A soft lock (a file that exists) would outlive a crash.
    return FileLock(path, fallback_to_soft=False)


def _holder(path: Path) -> str:
    try:
        holder = json.loads(path.with_suffix(".holder").read_text())
        return f"process {holder['pid']} on {holder['host']}"
    except (OSError, ValueError, KeyError, TypeError):
        return "another process"
