"""The images below a folder: which are taken, and what of the rest is told."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from pathlib import Path
from typing import final

from quantpipe.data.faults import Findings
from quantpipe.data.images import SUFFIXES
from quantpipe.data.safe_paths import resolve_inside
from quantpipe.errors import DataError

_GLOB = frozenset("*?[")
# What lies beside images in known layouts and is read, or compared with them, elsewhere.
_COMPANIONS = frozenset({".txt"})


@final
class ImageLister:
    """Lists the images of a data set, each folder once, however many links lead to it.

    Args:
        root: The folder of the data set, resolved; no folder outside it is looked into.
        findings: Told of hidden images, of other files, and of folders that were met before.
    """

    def __init__(self, root: Path, findings: Findings):
        self._root = root
        self._findings = findings
        self._seen: set[str] = set()
        self._others: dict[str, list[str]] = {}

    def below(self, folder: str) -> list[str]:
        """Returns the names of all images below a folder, it and they named from the root.

        Links to folders are followed inside the root, after the folders themselves.

        Raises:
            DataError: A folder cannot be read, or a link leads out of the root.
        """
        names: list[str] = []
        waiting, links = [folder], list[str]()
        while waiting or links:
            name, linked = (waiting.pop(), False) if waiting else (links.pop(), True)
            if self._enter(name, linked=linked):
                names += self._in_folder(name, waiting, links)
        return names

    def matching(self, pattern: str) -> list[str]:
        """Returns the images that a pattern (``images/*/*.jpg``) finds, folders with all in them.

        Raises:
            DataError: As of :meth:`below`.
        """
        names: list[str] = []
        for path in sorted(self._root.glob(pattern)):
            name = str(path.relative_to(self._root))
            if any(part.startswith(".") for part in name.split("/")[:-1]):
                if _suffix(path.name) in SUFFIXES:
                    self._findings.tell("hidden_images", f"image {name} is hidden, not read")
            elif path.is_dir():
                names += self.below(name)
            else:
                names += self._taken(path.name, name)
        return names

    def tell_others(self) -> None:
        """Tells of the files that are no images by their name, for all that was listed."""
        for suffix, names in sorted(self._others.items()):
            what = f"of suffix {suffix}" if suffix else "without a suffix"
            line = f"{len(names)} files {what} are not read as images, the first is {min(names)}"
            self._findings.tell("other_files", line, len(names))

    def _enter(self, name: str, *, linked: bool) -> bool:
        place = str(resolve_inside(self._root, name))
        if place not in self._seen:
            self._seen.add(place)
            return True
        if linked:
            self._findings.tell("linked_again", f"folder {name} is a link to one that was read")
        return False

    def _in_folder(self, folder: str, waiting: list[str], links: list[str]) -> Iterator[str]:
        for entry in sorted(entries(self._root / folder), key=lambda found: found.name):
            name = entry.name if folder == "." else f"{folder}/{entry.name}"
            if not _is_folder(entry):
                yield from self._taken(entry.name, name)
            elif entry.name.startswith("."):
                self._tell_hidden(entry.path, name)
            else:
                (links if entry.is_symlink() else waiting).append(name)

    def _taken(self, file: str, name: str) -> list[str]:
        suffix = _suffix(file)
        if suffix not in SUFFIXES:
            if suffix not in _COMPANIONS and not file.startswith("."):
                self._others.setdefault(suffix, []).append(name)
            return []
        if file.startswith("."):
            self._findings.tell("hidden_images", f"image {name} is hidden, not read")
            return []
        return [name]

    def _tell_hidden(self, folder: str, name: str) -> None:
        files = (file for _, _, found in os.walk(folder) for file in found)
        count = sum(_suffix(file) in SUFFIXES for file in files)
        if count:
            line = f"folder {name} is hidden, its {count} images are not read"
            self._findings.tell("hidden_images", line, count)


def image_files(folder: Path) -> Iterator[str]:
    """Yields the paths of all images below a folder; hidden ones and links to folders are not."""
    for parent, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        for file in files:
            if _suffix(file) in SUFFIXES and not file.startswith("."):
                yield f"{parent}/{file}"


def is_pattern(name: str) -> bool:
    """Whether a name holds what a shell expands."""
    return not _GLOB.isdisjoint(name)


def entries(folder: Path) -> list[os.DirEntry[str]]:
    """Returns what lies in a folder.

    Raises:
        DataError: It cannot be read: to others, it would be an empty one.
    """
    try:
        with os.scandir(folder) as found:
            return list(found)
    except OSError as error:
        raise DataError(f"cannot be read ({error.strerror})", path=folder) from error


def _is_folder(entry: os.DirEntry[str]) -> bool:
    """A link that leads nowhere, or in a ring, is none; what it is will say who reads it.

    Raises:
        DataError: It cannot be told.
    """
    try:
        return entry.is_dir()
    except OSError as error:
        if error.errno == errno.ELOOP:
            return False
        raise DataError(f"cannot be read ({error.strerror})", path=Path(entry.path)) from error


def _suffix(file: str) -> str:
    """A string operation, as there is one of these for every image."""
    stem, dot, suffix = file.rpartition(".")
    return f".{suffix.lower()}" if dot and stem.strip(".") else ""
