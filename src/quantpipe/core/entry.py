"""An entry of the store: a folder of files and the manifest that names them all, written last."""

from __future__ import annotations

import errno
import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from quantpipe.files import canonical_json, sha256_file, sync_directory, write_json

_FORMAT = 1
MANIFEST = "manifest.json"
# What a read says of a damaged entry. Other faults (a permission, too many open files) say nothing
# of it, and setting a good result aside for them would cost its work.
_DAMAGE = frozenset(
    {
        *(errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.ELOOP, errno.ENXIO),
        *(errno.EIO, errno.ENODATA, errno.EUCLEAN, errno.EBADMSG),
    }
)


@dataclass(frozen=True, kw_only=True)
class Entry:
    """A published result."""

    key: str
    folder: Path
    digests: Mapping[str, str]
    metrics: Mapping[str, Any]
    seconds: float


@dataclass(frozen=True, kw_only=True)
class Built:
    """What the writer of an entry reports of it."""

    metrics: Mapping[str, Any]
    seconds: float


def key_of(identity: Mapping[str, Any]) -> str:
    """The content key: SHA-256 of the canonical JSON of what names a result."""
    return hashlib.sha256(canonical_json(identity).encode()).hexdigest()


def seal(folder: Path, key: str, identity: Mapping[str, Any], built: Built) -> None:
    """Syncs every file, then writes the manifest that names them, last."""
    files = {}
    for path in _files(folder):
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        name = path.relative_to(folder).as_posix()
        files[name] = {"size": path.stat().st_size, "sha256": sha256_file(path)}
    for directory in (path for path in folder.rglob("*") if path.is_dir()):
        sync_directory(directory)  # the folder itself is synced with the manifest
    manifest = {
        "format": _FORMAT,
        "key": key,
        "identity": dict(identity),
        "files": files,
        "metrics": dict(built.metrics),
        "seconds": round(built.seconds, 3),
    }
    write_json(folder / MANIFEST, manifest | {"sha256": key_of(manifest)})


def verify(folder: Path, key: str) -> tuple[str, Entry | None]:
    """The fault of an entry and None, or an empty text and the entry."""
    try:
        manifest = json.loads((folder / MANIFEST).read_bytes())
        digest = manifest.pop("sha256")
        if digest != key_of(manifest):
            return "its manifest was changed", None
        if manifest["key"] != key or manifest["format"] != _FORMAT:
            return "its manifest is of another entry", None
        files = manifest["files"]
        present = {path.relative_to(folder).as_posix() for path in _files(folder)} - {MANIFEST}
        if present != set(files):
            return f"file missing or too many: {sorted(present ^ set(files))[0]}", None
        for name, recorded in files.items():
            path = folder / name
            if path.stat().st_size != recorded["size"] or sha256_file(path) != recorded["sha256"]:
                return f"digest of {name} differs", None
    except OSError as error:
        if error.errno not in _DAMAGE:
            raise
        return f"{error.strerror}: {Path(error.filename or folder).name}", None
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return "its manifest cannot be read", None
    return "", Entry(
        key=key,
        folder=folder,
        digests={name: recorded["sha256"] for name, recorded in files.items()},
        metrics=manifest["metrics"],
        seconds=manifest["seconds"],
    )


def _files(folder: Path) -> list[Path]:
    """Everything below a folder that is not a folder, symbolic links included, in order."""
    found = []
    for parent, folders, files in os.walk(folder, onerror=raise_it):
        here = Path(parent)
        found += [here / name for name in files]
        found += [here / name for name in folders if (here / name).is_symlink()]
    return sorted(found)


def raise_it(error: OSError) -> NoReturn:
    """For ``os.walk``, to which a folder that cannot be read is an empty one."""
    raise error
