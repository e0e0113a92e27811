"""What stands for the objects and functions that a released checkpoint names: bags, and no code.

Three functions occur in ordinary files. A trainer's numbers are numpy scalars, which are pickled as
a call of ``scalar`` with the bytes that ``_codecs.encode`` makes of a text; a module whose
``forward`` was set to another of its methods is pickled with a call of ``getattr``. Each is taken
in the one use that such files make of it; every other use ends the reading.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

from quantpipe.errors import ArtifactError

# Before numpy 2 and since.
_NUMPY_CORES = ("numpy.core.multiarray", "numpy._core.multiarray")
_NUMPY_TYPES = re.compile(r"ndarray|bool_?|str_|bytes_|(u?int|float|complex)\d+")
# Booleans, whole, real and complex numbers and texts; in particular no objects and no structures.
_NUMBER_OR_TEXT = re.compile(r"[<>|=]?([?]|[biufcSU]\d+)")


class Record:
    """What stands for an object of a foreign class: its state, and nothing that runs."""

    origin = ""
    state: dict[str, Any]

    def __new__(cls, *_args: object, **_kwargs: object) -> Record:
        """Takes and forgets whatever the real class would have been made from."""
        record = super().__new__(cls)
        record.state = {}
        return record

    def __init__(self, *_args: object, **_kwargs: object):
        """Takes the same again, as a class that is called does."""

    def __setstate__(self, state: object) -> None:
        found = state[0] if isinstance(state, tuple) and state else state
        self.state = dict(found) if isinstance(found, dict) else {}

    def __setitem__(self, key: object, value: object) -> None:
        """Forgets the items of a foreign mapping."""

    def append(self, item: object) -> None:
        """Forgets the items of a foreign sequence."""

    def extend(self, items: object) -> None:
        """Forgets the items of a foreign sequence."""


class Ordered(dict[Any, Any]):
    """What stands for an ordered dictionary: its items, without the attributes of a state dict."""

    def __setstate__(self, state: object) -> None:
        """Forgets the attributes."""


class _Made(Record):
    """What one of the functions makes."""


class _Method(_Made):
    """A bound method, as a module keeps one that replaces its ``forward``."""

    origin = "builtins.getattr"


class _Dtype(_Made):
    """A type of numpy numbers, by its code."""

    origin = "numpy.dtype"
    code = ""


class _Scalar(_Made):
    """A numpy number."""

    origin = "numpy.scalar"


def refusal(cause: str) -> ArtifactError:
    """What ends the reading of a file that may hold code."""
    return ArtifactError(
        cause, hint="it may hold code: do not load it with anything else; get the file again"
    )


def is_numpy_class(module: str, name: str) -> bool:
    """Whether a name is that of an array, of a kind of numbers, or of the maker of arrays."""
    if module in _NUMPY_CORES:
        return name == "_reconstruct"
    return module == "numpy" and _NUMPY_TYPES.fullmatch(name) is not None


class StandIns:
    """What is called in place of each function that a file may name.

    Bound methods, because a file can set attributes of what it is handed: of these it cannot.
    """

    __slots__ = ()

    def table(self) -> Mapping[tuple[str, str], Callable[..., Any]]:
        """By module and name."""
        return {
            ("builtins", "getattr"): self._method,
            ("_codecs", "encode"): self._encode,
            ("numpy", "dtype"): self._dtype,
            **{(core, "scalar"): self._scalar for core in _NUMPY_CORES},
        }

    def _method(self, *arguments: Any) -> Record:
        match arguments:
            case (Record() as owner, str(name)) if _is_method(owner, name):
                return _Method()
        raise _misuse("builtins.getattr")

    def _encode(self, *arguments: Any) -> bytes:
        """The bytes that protocol 2 writes as a text."""
        match arguments:
            case (str(text), "latin1" | "latin-1"):
                return text.encode("latin-1")
        raise _misuse("_codecs.encode")

    def _dtype(self, *arguments: Any) -> Record:
        made = _Dtype()
        made.code = arguments[0] if arguments and isinstance(arguments[0], str) else ""
        return made

    def _scalar(self, *arguments: Any) -> Record:
        match arguments:
            # numpy would unpickle what comes with a type of objects.
            case (_Dtype(code=code), bytes()) if _NUMBER_OR_TEXT.fullmatch(code):
                return _Scalar()
        raise _misuse("numpy scalar")


def _is_method(owner: Record, name: str) -> bool:
    """Whether an object of a foreign class, made by none of these, may have such a method."""
    return not isinstance(owner, _Made) and name.isidentifier() and not name.startswith("__")


def _misuse(name: str) -> ArtifactError:
    return refusal(f"uses '{name}' in a way which no checkpoint of a detector needs")
