"""The folder that a run leaves: copies of every result, the manifest, the status.

The copies are the user's: the store never reads them back. One that was edited by hand is kept
beside the restored file.
"""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from quantpipe.core.entry import Entry
from quantpipe.core.lock import exclusive_lock_or_busy
from quantpipe.files import (
    faults_named,
    make_folder,
    remove_leftovers,
    sha256_file,
    sync_directory,
    temporary_beside,
    write_json,
)

_MANIFEST = "manifest.json"


class RunDirectory:
    """One run's folder. ``warn`` is told of files that were changed by hand."""

    def __init__(self, root: Path, *, warn: Callable[[str], None]):
        self._root = root
        self._warn = warn
        self._placed: dict[str, str] = {}
        self._earlier: dict[str, Any] = {}
        self._claimed: set[str] = set()
        self._recall()

    @property
    def root(self) -> Path:
        """The folder itself."""
        return self._root

    @contextmanager
    def held(self) -> Iterator[None]:
        """Holds the folder; raises :class:`~quantpipe.errors.BusyError` if another run does."""
        with exclusive_lock_or_busy(self._root / ".lock"):
            remove_leftovers(self._root)
            self._recall()  # another run may have ended here meanwhile
            yield

    def _recall(self) -> None:
        """Reads what the last run here left."""
        recorded = _recorded(self._root / _MANIFEST)
        self._placed = _texts(recorded.get("files"))
        self._earlier = dict(recorded.get("steps") or {})

    def place(self, step: str, entry: Entry) -> None:
        """Copies the files of an entry to ``<step>/``, dots in the step's name as folders."""
        folder = self._root / Path(*step.split("."))
        fresh: set[Path] = set()
        for name, digest in entry.digests.items():
            target = folder / name
            relative = target.relative_to(self._root).as_posix()
            self._claimed.add(relative)
            if self._settled(target, relative, digest):
                continue
            _copy(entry.folder / name, target)
            self._placed[relative] = digest
            fresh.add(target.parent)
        for parent in fresh:
            sync_directory(parent)

    def remove_unclaimed(self) -> None:
        """Removes what an earlier run placed here and this one did not; edited files stay.

        The next manifest names the steps of this run alone.
        """
        self._earlier = {}
        for relative in sorted(set(self._placed) - self._claimed):
            digest = self._placed.pop(relative)
            path = self._root / relative
            if path.is_file() and sha256_file(path) == digest:
                path.unlink()
                with suppress(OSError):  # a folder that is not empty stays
                    path.parent.rmdir()

    def _settled(self, target: Path, relative: str, digest: str) -> bool:
        """Whether ``target`` holds the content already; what a user put there is moved aside."""
        if not target.exists():
            return False
        found = sha256_file(target)
        if found == digest:
            self._placed[relative] = digest
            return True
        if found != self._placed.get(relative):
            kept = target.with_name(f"{target.name}.edited-{found[:8]}")
            target.rename(kept)
            self._warn(f"{relative} was changed by hand; restored, the change kept as {kept.name}")
        return False

    def write_manifest(self, pipeline: str, steps: Mapping[str, Any]) -> None:
        """Writes what has been done so far; called after every step.

        Steps of an earlier run stay in it until this one is over: their results are still
        referred to, and not to be pruned.
        """
        write_json(
            self._root / _MANIFEST,
            {
                "pipeline": pipeline,
                "steps": self._earlier | dict(steps),
                "files": dict(sorted(self._placed.items())),
            },
        )

    def write_status(self, state: str, step: str | None, **more: Any) -> None:
        """Writes ``status.json``: running, done, failed or interrupted, and where."""
        status = {"state": state, "step": step, "pid": os.getpid(), "time": time.time(), **more}
        write_json(self._root / "status.json", status)


def _recorded(manifest: Path) -> dict[str, Any]:
    try:
        recorded = json.loads(manifest.read_bytes())
    except (OSError, ValueError, RecursionError):
        return {}
    if not isinstance(recorded, dict):
        return {}
    return {name: value for name, value in recorded.items() if isinstance(value, dict)}


def _texts(values: Mapping[str, Any] | None) -> dict[str, str]:
    return {str(name): str(value) for name, value in (values or {}).items()}


def _copy(source: Path, target: Path) -> None:
    """A real copy under its final name only once whole; shares blocks where the disk can."""
    size = source.stat().st_size
    with faults_named(target, size):
        make_folder(target.parent)
        temporary = temporary_beside(target)
        try:
            with source.open("rb") as reader, temporary.open("wb") as writer:
                _copy_blocks(reader.fileno(), writer.fileno(), size)
                os.fsync(writer.fileno())
            temporary.replace(target)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise


def _copy_blocks(reader: int, writer: int, size: int) -> None:
    done = 0
    while done < size:
        try:
            copied = os.copy_file_range(reader, writer, size - done)
        except OSError:
            if done:
                raise
            # Between some file systems the kernel cannot copy by itself.
            with os.fdopen(os.dup(reader), "rb") as source, os.fdopen(os.dup(writer), "wb") as sink:
                shutil.copyfileobj(source, sink)
            return
        if copied == 0:
            raise OSError("the source ended early")
        done += copied
