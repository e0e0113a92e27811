"""Numbers of a JSON document as tools write them: as numbers, as text, whole ones as fractions.

pandas makes ``7.0`` of an id beside one that is missing, and spreadsheets make ``"7"`` of it.
"""

from __future__ import annotations

import math
import re
from contextlib import suppress
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

_EXACT = 2**53  # from here on, a float stands for several integers
_INT64 = 2**63
_WHOLE = re.compile(r"\s*[+-]?\d{1,18}(\.0*)?\s*", re.ASCII)
_NUMBER = re.compile(r"\s*[+-]?(\d{1,300}\.?\d{0,300}|\.\d{1,300})([eE][+-]?\d{1,3})?\s*", re.ASCII)


class Integers(NamedTuple):
    """A column of integers: their values (0 where there is none), and how they are written."""

    values: NDArray[np.int64]
    valid: NDArray[np.bool_]
    plain: NDArray[np.bool_]  # valid, and written as an integer


def read_integer(value: object) -> int | None:
    """Returns the integer that a JSON value stands for, None where it is none."""
    if isinstance(value, bool):
        return None
    if isinstance(value, int):
        return value if abs(value) < _INT64 else None
    if isinstance(value, float):
        return int(value) if value.is_integer() and abs(value) < _EXACT else None
    if isinstance(value, str) and _WHOLE.fullmatch(value):
        return int(value.partition(".")[0])
    return None


def read_number(value: object) -> float:
    """Returns the number that a JSON value stands for; NaN where it is none."""
    if isinstance(value, str) and _NUMBER.fullmatch(value):
        return float(value)
    if isinstance(value, bool) or not isinstance(value, int | float):
        return math.nan
    try:
        return float(value)
    except OverflowError:
        return math.inf


def integers(column: list[Any]) -> Integers:
    """Reads a column of JSON values; one of plain integers costs no step for each."""
    if set(map(type, column)) <= {int}:
        with suppress(OverflowError):
            whole = np.ones(len(column), dtype=np.bool_)
            return Integers(np.array(column, dtype=np.int64), whole, whole)
    read = [read_integer(value) for value in column]
    valid = np.array([value is not None for value in read], dtype=np.bool_)
    return Integers(
        values=np.array([value or 0 for value in read], dtype=np.int64),
        valid=valid,
        plain=valid & np.array([type(value) is int for value in column], dtype=np.bool_),
    )


def numbers(column: list[Any]) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Reads a column of JSON values; returns the numbers, and which are written as such."""
    plain = np.ones(len(column), dtype=np.bool_)
    if set(map(type, column)) <= {int, float}:
        with suppress(OverflowError):
            return np.array(column, dtype=np.float64), plain
    plain = np.array([type(value) in (int, float) for value in column], dtype=np.bool_)
    return np.array([read_number(value) for value in column], dtype=np.float64), plain
