"""Numbers as people read them: in tables, on the terminal and in the report alike. ASCII only."""

from __future__ import annotations

ABSENT = "-"


def percent(fraction: float | None, decimals: int = 1) -> str:
    """Returns 0.4338 as ``43.4``."""
    return ABSENT if fraction is None else _fixed(100 * fraction, decimals)


def rate(per_second: float | None) -> str:
    """Returns images a second: whole from 100 on, else with one decimal."""
    if per_second is None:
        return ABSENT
    return f"{per_second:.0f}" if per_second >= 100 else f"{per_second:.1f}"


def ratio(value: float | None) -> str:
    """Returns 1.583 as ``1.58x``."""
    return ABSENT if value is None else f"{value:.2f}x"


def milliseconds(value: float | None) -> str:
    """Returns a time with three significant digits: ``1.68``, ``16.8``, ``168``."""
    if value is None:
        return ABSENT
    decimals = 2 if value < 10 else 1 if value < 100 else 0
    return f"{value:.{decimals}f}"


def decimal(value: float | None, decimals: int = 1) -> str:
    """Returns a plain number with a fixed number of decimals."""
    return ABSENT if value is None else _fixed(value, decimals)


def significant(value: float | None) -> str:
    """Returns a number with two significant digits: ``0.0019``, ``3.2e-05``."""
    return ABSENT if value is None else f"{value:.2g}"


def count(value: int | None) -> str:
    """Returns a whole number."""
    return ABSENT if value is None else str(value)


def duration(seconds: float) -> str:
    """Returns ``0.4 s``, ``42 s``, ``3:05`` or ``1:02:03``."""
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    minutes, rest = divmod(whole, 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def _fixed(value: float, decimals: int) -> str:
    text = f"{value:.{decimals}f}"
    return text.removeprefix("-") if float(text) == 0 else text  # no "-0.0"
