"""The part of a configuration that names its result."""

from __future__ import annotations

from dataclasses import is_dataclass
from pathlib import Path
from typing import Annotated, Any, get_args, get_origin

from quantpipe.schema import ExecutionOnly, field_types


def identity(config: Any) -> dict[str, Any]:
    """The part of a configuration that names its result.

    Paths are left out (what they hold is named by its content), and so are fields marked
    :class:`ExecutionOnly`.
    """
    named: dict[str, Any] = {}
    for name, hint in field_types(type(config)).items():
        marks = get_args(hint)[1:] if get_origin(hint) is Annotated else ()
        value = getattr(config, name)
        if isinstance(value, Path) or any(isinstance(mark, ExecutionOnly) for mark in marks):
            continue
        named[name] = identity(value) if is_dataclass(value) else _plain(value)
    return named


def _plain(value: Any) -> Any:
    if isinstance(value, tuple):
        return [identity(item) if is_dataclass(item) else _plain(item) for item in value]
    return value
