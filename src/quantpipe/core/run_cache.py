"""Results by content key: found whole, or built once and published atomically.

Layout below the root::

    objects/<key[:2]>/<key>/   files and manifest.json, never changed after the rename
    staging/<key>.<random>/    being written
    progress/<key>/            kept by long stages until they are published
    memo/                      what only saves time: digests of files, timings of kernels
    quarantine/                what failed verification, for whoever wants to look
    locks/<key>.lock           one flock per key, never removed
"""

from __future__ import annotations

import errno
import os
import shutil
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

from quantpipe.core.entry import MANIFEST, Built, Entry, seal, verify
from quantpipe.core.lock import SharedLock, exclusive_lock, exclusive_lock_or_busy, shared_lock
from quantpipe.errors import BusyError, MachineError
from quantpipe.files import (
    FULL,
    NoRoomError,
    make_folder,
    sync_directory,
)

_READ_ONLY = frozenset({errno.EROFS, errno.EACCES, errno.EPERM})


class RunCache:
    """The store of results.

    Args:
        root: Its folder; made when something is put in.
        warn: Told of entries that had to be quarantined, and of waiting for another process.
        still_wanted: Ends such a wait by raising.
    """

    def __init__(
        self,
        root: Path,
        *,
        warn: Callable[[str], None],
        still_wanted: Callable[[], None] = lambda: None,
    ):
        self._root = root
        self._warn = warn
        self._still_wanted = still_wanted
        self._verified: dict[str, Entry] = {}
        self._in_use: dict[str, SharedLock] = {}

    @property
    def root(self) -> Path:
        """The folder of the store."""
        return self._root

    def progress_folder(self, key: str) -> Path:
        """Where a long stage keeps what it needs to go on after a kill."""
        return self._root / "progress" / key

    @contextmanager
    def lock(self, key: str) -> Iterator[None]:
        """Holds the one lock of a key, waiting for it if need be.

        Raises:
            MachineError: The store can only be read.
        """
        lock = exclusive_lock(
            self._lock_file(key), waiting=self._warn, still_wanted=self._still_wanted
        )
        with ExitStack() as stack:
            try:
                stack.enter_context(lock)
            except OSError as error:
                if error.errno not in _READ_ONLY:
                    raise
                cause = f"can only be read ({error.strerror}), and what is wanted is not in it"
                hint = "choose a folder to write in with cache_dir="
                raise MachineError(cause, path=self._root, hint=hint) from error
            yield

    def clear_staging(self) -> None:
        """Removes what killed writers left of any key, unless somebody is writing it again."""
        for folder in (self._root / "staging").glob("*"):
            self._if_free(folder.name.partition(".")[0], partial(_remove_tree, folder))

    def find(self, key: str) -> Entry | None:
        """The entry of a key if it is there and whole."""
        return self._checked(key)[1]

    def _checked(self, key: str) -> tuple[str, Entry | None]:
        """The fault of an entry (empty if it is not there) and None, or the entry."""
        if key not in self._verified:
            folder = self._object(key)
            try:
                # Until this process ends, nobody prunes what it found whole.
                claim = shared_lock(folder / MANIFEST)
            except BusyError:  # it is just being pruned: whoever has the key's lock will see
                return "", None
            fault, entry = verify(folder, key) if folder.exists() else ("", None)
            if entry is None:
                return fault, None
            self._remember(entry, claim)
            with suppress(OSError):  # a store that may only be read still serves
                os.utime(folder)  # when it was last used, for pruning
        return "", self._verified[key]

    def _remember(self, entry: Entry, claim: SharedLock | None) -> None:
        self._verified[entry.key] = entry
        if claim is not None:
            self._in_use[entry.key] = claim

    def get_or_build(
        self, key: str, identity: Mapping[str, Any], write: Callable[[Path], Built]
    ) -> tuple[Entry, bool]:
        """Returns the entry of ``key`` and whether it was there already.

        Whoever gets the lock first calls ``write`` with an empty folder; the others wait and
        find the result. If ``write`` raises, nothing of it is left. A damaged entry is set aside
        with a warning and built again.
        """
        entry = self.find(key)
        if entry is not None:
            if self.progress_folder(key).exists():  # whoever published it was killed right then
                self._if_free(key, lambda: self._drop_progress(key))
            return entry, True
        with self.lock(key):
            fault, entry = self._checked(key)
            if entry is not None:
                self._drop_progress(key)
                return entry, True
            if fault:  # under the lock only, or a damaged entry's successor could be set aside
                self._quarantine(self._object(key), fault)
            return self._build(key, identity, write), False

    def set_aside_if_damaged(self, key: str) -> str:
        """Verifies an entry and quarantines it if it is not whole; returns the fault, if any."""
        fault, _ = verify(self._object(key), key)
        if not fault:
            return ""
        with self.lock(key):
            folder = self._object(key)
            fault = verify(folder, key)[0] if folder.exists() else ""
            if fault:
                self._quarantine(folder, fault)
        return fault

    def _build(
        self, key: str, identity: Mapping[str, Any], write: Callable[[Path], Built]
    ) -> Entry:
        self._clear_staging(key)
        staging = self._root / "staging" / f"{key}.{uuid.uuid4().hex}"
        staging.mkdir(parents=True)
        try:
            built = write(staging)
            seal(staging, key, identity, built)
            final = self._object(key)
            make_folder(final.parent)
            staging.rename(final)
            sync_directory(final.parent)
        except BaseException as error:
            size = folder_size(staging)
            _remove_tree(staging)
            if isinstance(error, OSError) and error.errno in FULL:
                raise _no_room(error, staging, size) from error
            raise
        self._drop_progress(key)
        claim = shared_lock(final / MANIFEST)
        fault, entry = verify(final, key)
        if entry is None:
            hint = "the disk may be failing; the next run sets it aside"
            raise MachineError(f"cannot be read back: {fault}", path=final, hint=hint)
        self._remember(entry, claim)
        return entry

    def _drop_progress(self, key: str) -> None:
        _remove_tree(self.progress_folder(key))

    def _if_free(self, key: str, work: Callable[[], None]) -> None:
        """Does the work under the lock of a key, unless somebody has it or nothing may change."""
        with suppress(BusyError, OSError), exclusive_lock_or_busy(self._lock_file(key)):
            work()

    def _clear_staging(self, key: str) -> None:
        """Removes what a killed writer left; the lock is held, so none is alive."""
        for folder in (self._root / "staging").glob(f"{key}.*"):
            _remove_tree(folder)

    def _quarantine(self, folder: Path, fault: str) -> None:
        place = self._root / "quarantine" / f"{folder.name}.{uuid.uuid4().hex[:8]}"
        make_folder(place.parent)
        folder.rename(place)
        self._warn(
            f"cache entry {folder.name[:12]} is damaged ({fault}); set aside, to be built again"
        )

    def _lock_file(self, key: str) -> Path:
        return self._root / "locks" / f"{key}.lock"

    def _object(self, key: str) -> Path:
        return self._root / "objects" / key[:2] / key


def folder_size(folder: Path) -> int:
    """Bytes of the files below a folder, as far as they can be told."""
    size = 0
    with suppress(OSError):
        for path in folder.rglob("*"):
            size += path.lstat().st_size if path.is_file() else 0
    return size


def _no_room(error: OSError, staging: Path, size: int) -> NoRoomError:
    """What of an entry was written already counts: its place was given back."""
    path = Path(error.filename or staging)
    more = error.needed if isinstance(error, NoRoomError) else 0
    return NoRoomError(error, path, size + more)


def _remove_tree(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
