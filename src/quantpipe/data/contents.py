"""What image files hold: their digests, what is broken in them, and a memo of both."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from quantpipe.errors import DataError
from quantpipe.files import canonical_json, sha256_bytes, write_json

# A file changed within this many nanoseconds may change again under the same time stamp.
_SETTLED_NS = 50_000_000
_THREADS = 8  # reading, hashing and decoding all release the interpreter lock


class Content(NamedTuple):
    """Of a file: its size and times ("" if it just changed), its SHA-256, and its damage or ""."""

    stamp: str
    digest: str
    damage: str


Look = Callable[[Path, bytes], str]
"""Told a file and its content, says what is broken in it, or ""."""


def read_contents(
    paths: Sequence[Path], root: Path, memo: Path | None, look: Look | None = None
) -> list[Content]:
    """Reads files, in threads, but those of which a memo knows.

    Args:
        paths: The files.
        root: The folder that the memo's names are relative to.
        memo: A JSON file that remembers contents by name, size and times, so that files that did
            not change are not read again; None reads every one. It is of one ``look``.
        look: Looks for damage; None looks for none.

    Raises:
        DataError: A file cannot be read.
    """
    names = [str(path.relative_to(root)) for path in paths]
    known = {} if memo is None else _read_memo(memo)
    with ThreadPoolExecutor(_THREADS) as executor:
        found = list(
            executor.map(lambda path, name: _read(path, known.get(name), look), paths, names)
        )
    fresh = {name: content for name, content in zip(names, found, strict=True) if content.stamp}
    if memo is not None and any(known.get(name) != content for name, content in fresh.items()):
        with suppress(OSError):  # it only saves time: a store that can only be read has none
            _write_memo(memo, known | fresh)
    return found


def _read(path: Path, known: Content | None, look: Look | None) -> Content:
    try:
        before = path.stat()
        stamp = f"{before.st_size} {before.st_mtime_ns} {before.st_ctime_ns}"
        if known is not None and known.stamp == stamp:
            return known
        content = path.read_bytes()
    except OSError as error:
        raise DataError(f"image cannot be read ({error.strerror})", path=path) from error
    settled = time.time_ns() - max(before.st_mtime_ns, before.st_ctime_ns) > _SETTLED_NS
    damage = "" if look is None else look(path, content)
    return Content(stamp if settled else "", sha256_bytes(content), damage)


def _read_memo(path: Path) -> dict[str, Content]:
    """Returns the entries of a memo; a missing or damaged one is empty, as it only saves time."""
    try:
        document = json.loads(path.read_bytes())
        entries = document["images"]
        # A digest of an image with a digit changed would name another data set.
        if document["sha256"] != sha256_bytes(canonical_json(entries).encode()):
            return {}
        return {name: Content(*entry) for name, entry in entries.items() if _is_entry(entry)}
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return {}


def _write_memo(path: Path, contents: Mapping[str, Content]) -> None:
    entries = {name: list(content) for name, content in contents.items()}
    digest = sha256_bytes(canonical_json(entries).encode())
    write_json(path, {"sha256": digest, "images": entries})


def _is_entry(entry: object) -> bool:
    return (
        isinstance(entry, list)
        and len(entry) == len(Content._fields)
        and all(isinstance(part, str) for part in entry)
        and len(entry[1]) == hashlib.sha256().digest_size * 2
    )
