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
        name: A relative file name as an annotation file states it.

    Raises:
        DataError: ``name`` is not a text, is absolute, climbs with ``..``, or leads out of
            ``root`` through a symbolic link.
    """
    if not isinstance(name, str) or not name or "\0" in name:
        raise DataError(f"file name {name!r} is not a usable text", path=root)
    windows = PureWindowsPath(name)  # knows both separators and drive letters
    if windows.drive or windows.root or ".." in windows.parts:
        raise DataError(
            f"file name {name!r} leaves the image folder",
            path=root,
            hint="name files relative to the folder, without '..'",
        )
    try:
        resolved = os.path.realpath(root / name)
        with suppress(FileNotFoundError, NotADirectoryError):
            os.lstat(resolved)  # says so where the name is too long to be asked for
    except OSError as error:
        raise DataError(f"file name {name[:80]!r}: {error.strerror}", path=root) from error
    if not Path(resolved).is_relative_to(root):
        raise DataError(
            f"file name {name!r} is a link out of the image folder",
            path=root,
            hint="copy the file into the folder",
        )
    return Path(resolved)
