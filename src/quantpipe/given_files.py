"""Files that people hand over: one place that says which are read, and how the rest is refused.

Text is UTF-8, with or without a byte order mark, or UTF-16 and UTF-32 that begin with theirs;
lines may end as any system ends them.
"""

from __future__ import annotations

import codecs
import os
from pathlib import Path

from quantpipe.errors import QuantpipeError

# The mark of UTF-32 begins with that of UTF-16, so it is looked for first.
_MARKED = (
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_SAVE = "save it as UTF-8"
_FORBIDDEN = "cannot be read (Permission denied)"


def fault_of(path: Path) -> str | None:
    """Why a path is no file to read, or None; it is looked up and never opened.

    Whoever opens a pipe without a writer waits for one for ever.
    """
    if path.is_file():
        return None if os.access(path, os.R_OK) else _FORBIDDEN
    if path.is_dir():
        return "is a folder, not a file"
    if path.exists():
        return "not a regular file"
    return "a link that leads nowhere" if path.is_symlink() else "no such file"


def require_file(path: Path, error: type[QuantpipeError], hint: str | None = None) -> None:
    """Refuses what is no file to read, without opening it.

    Raises:
        QuantpipeError: Of the given type, with the hint.
    """
    cause = fault_of(path)
    if cause is not None:
        raise error(cause, path=path, hint=hint)


def require_folder(path: Path, error: type[QuantpipeError], hint: str | None = None) -> None:
    """Refuses what is no folder to look into.

    Raises:
        QuantpipeError: Of the given type, with the hint: it is none, or may not be looked into.
    """
    if path.is_dir():
        cause = None if os.access(path, os.R_OK | os.X_OK) else _FORBIDDEN
    elif path.exists():
        cause = "is a file, not a folder"
    else:
        cause = "a link that leads nowhere" if path.is_symlink() else "no such folder"
    if cause is not None:
        raise error(cause, path=path, hint=hint)


def read_bytes(path: Path, error: type[QuantpipeError]) -> bytes:
    """Returns the content of a regular file.

    Raises:
        QuantpipeError: Of the given type: it is no file, or cannot be read.
    """
    require_file(path, error)
    try:
        return path.read_bytes()
    except OSError as fault:
        raise error(f"cannot be read ({fault.strerror})", path=path) from fault


def read_text(path: Path, error: type[QuantpipeError]) -> str:
    """Returns the text of a file, without its byte order mark.

    Raises:
        QuantpipeError: Of the given type: it cannot be read, or is no such text; names the byte.
    """
    return decoded(read_bytes(path, error), path, error)


def decoded(content: bytes, path: Path, error: type[QuantpipeError]) -> str:
    """Returns the text that bytes from ``path`` stand for, without a byte order mark.

    Raises:
        QuantpipeError: Of the given type: they are in no encoding that is read; names the byte.
    """
    encoding = next((name for mark, name in _MARKED if content.startswith(mark)), "utf-8")
    try:
        # Files that were joined have a mark in front of each part.
        text = content.decode(encoding).removeprefix("\ufeff").replace("\n\ufeff", "\n")
    except UnicodeDecodeError as fault:
        line = content.count(b"\n", 0, fault.start) + 1
        raise error(
            f"is not {fault.encoding.upper()} text: byte 0x{content[fault.start]:02x} at "
            f"{fault.start}, in line {line}",
            path=path,
            hint=_SAVE,
        ) from fault
    if "\0" in text:
        cause = f"holds a zero at character {text.index(chr(0))}, as UTF-16 without a mark does"
        raise error(cause, path=path, hint=_SAVE)
    return text
