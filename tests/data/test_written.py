"""JSON values that stand for numbers are read as such, exactly or not at all."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from quantpipe.data.written import integers, numbers, read_integer, read_number

LARGE = 2**62 + 1  # no float holds it


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (7, 7), (-7, -7), (LARGE, LARGE), (7.0, 7), ("7", 7), (" 7.0 ", 7), ("000139", 139),
        (7.5, None), (1e300, None), (math.nan, None), (math.inf, None), (2**63, None),
        (True, None), (None, None), ("", None), ("7.5", None), ("1e2", None), ("٣", None),
        ("9" * 5000, None), ([7], None),
    ],
)  # fmt: skip
def test_integers(value: Any, expected: int | None) -> None:
    assert read_integer(value) == expected
    column = integers([value, 1])
    assert column.valid.tolist() == [expected is not None, True]
    assert column.values.tolist() == [expected or 0, 1]
    assert column.plain.tolist() == [expected is not None and type(value) is int, True]


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (7, 7.0), (0.5, 0.5), ("0.5", 0.5), (" -1e3", -1000.0), (10**400, math.inf),
        (True, math.nan), ("nan", math.nan), ("inf", math.nan), ("x", math.nan),
        (None, math.nan), ([1], math.nan), ("1" * 5000, math.nan),
    ],
)  # fmt: skip
def test_numbers(value: Any, expected: float) -> None:
    np.testing.assert_equal(read_number(value), expected)
    values, plain = numbers([value, 1.5])
    np.testing.assert_equal(values, [expected, 1.5])
    assert plain.tolist() == [type(value) in (int, float), True]
