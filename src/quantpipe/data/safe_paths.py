"""File names from a data set that must stay inside its folder."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path, PureWindowsPath

from quantpipe.errors import DataError


def resolve_inside(root: Path, name: object) -> Path:
    """Returns the file called ``name`` below ``root``, looked up but never opened.

    Args:
        root: A folder, already resolved.
        name: A file name as an annotation file states it; see :func:`name_inside`.

    Raises:
        DataError: As of :func:`name_inside`; or it leads out of ``root`` through a symbolic link.
    """
    inside = name_inside(root, name)
    try:
        resolved = os.path.realpath(root / inside)
        with suppress(FileNotFoundError, NotADirectoryError):
            os.lstat(resolved)  # says so where the name is too long to be asked for
    except OSError as error:
        raise DataError(f"file name {inside[:80]!r}: {error.strerror}", path=root) from error
    if not Path(resolved).is_relative_to(root):
        raise DataError(
            f"file name {name!r} is a link out of the image folder",
            path=root,
            hint="copy the file into the folder",
        )
    return Path(resolved)


def name_inside(root: Path, name: object) -> str:
    """Returns a file's name relative to ``root``, with slashes.

    An absolute name of a file inside ``root`` is one too, and a backslash separates folders where
    there is no file of that very name.

    Raises:
        DataError: ``name`` is not a text, is absolute and elsewhere, or climbs with ``..``.
    """
    if not isinstance(name, str) or not name or "\0" in name:
        raise DataError(f"file name {name!r} is not a usable text", path=root)
    windows = PureWindowsPath(name)  # knows both separators and drive letters
    if ".." in windows.parts:
        raise _leaves(root, name, "without '..'")
    if name.startswith("/"):
        return _relative(root, name)
    if windows.drive or windows.root:
        raise _leaves(root, name, "not from a drive or a share")
    if "\\" in name and not os.path.lexists(root / name):
        return name.replace("\\", "/")
    return name


def shorter_name(root: Path, name: str) -> str | None:
    """Returns the longest end of a name, below fewer folders, under which there is something.

    Some tools name files from above the set: ``set/train/a.jpg`` for ``train/a.jpg``.
    """
    parts = [part for part in name.split("/") if part not in ("", ".")]
    ends = ("/".join(parts[start:]) for start in range(1, len(parts)))
    return next((end for end in ends if os.path.lexists(root / end)), None)


def _relative(root: Path, name: str) -> str:
    for path in (Path(name), Path(os.path.realpath(name))):
        if path.is_relative_to(root):
            return str(path.relative_to(root))
    raise _leaves(root, name, "this one lies elsewhere")


def _leaves(root: Path, name: str, how: str) -> DataError:
    return DataError(
        f"file name {name[:200]!r} leaves the image folder",
        path=root,
        hint=f"name files relative to the folder, {how}",
    )
