"""Hostile input as a list of cases, each prepared, read by the real reader, and judged."""

from __future__ import annotations

import random
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from faults.tally import Tally
from faults.watched import Outside, Seen, bounded, watching

from quantpipe.errors import QuantpipeError

LONGEST = 2.0
"""Seconds that a case may take."""

_LONGEST_LINE = 3000
_MEMORY_MIB = 1024


@dataclass(frozen=True)
class Place:
    """Where a case puts its files: ``root`` is the user's, ``outside`` nobody may open."""

    root: Path
    outside: Outside


Prepared = Callable[[], object]


@dataclass(frozen=True, kw_only=True)
class Case:
    """One hostile input.

    Attributes:
        row: Number of the fault.
        name: Enough to find it again.
        prepare: Writes the files and returns the call to judge.
        error: What the call must raise, exactly; None where it must return.
        says: Parts of the message that must be there; ``{root}`` is the folder.
        accepts: Told what the call returned; what is wrong with it, or None.
    """

    row: int
    name: str
    prepare: Callable[[Place], Prepared]
    error: type[QuantpipeError] | None
    says: tuple[str, ...] = ()
    accepts: Callable[[Any], str | None] = lambda returned: None


def run_cases(campaign: str, cases: Sequence[Case], seed: int, share: float) -> Tally:
    """Runs a share of the cases, chosen and ordered by the seed."""
    started = time.monotonic()
    rows = sorted({case.row for case in cases})
    tally = Tally(campaign=campaign, rows=rows, seed=seed)
    chosen = random.Random(seed).sample(list(cases), max(1, round(len(cases) * share)))
    for case in chosen:
        with tempfile.TemporaryDirectory(prefix="faults-") as temporary:
            place = Place(Path(temporary).resolve() / "root", Outside(Path(temporary) / "outside"))
            place.root.mkdir()
            tally.record(f"row {case.row}, {case.name}", _judge(case, place, tally))
    tally.seconds = time.monotonic() - started
    return tally


def _judge(case: Case, place: Place, tally: Tally) -> str | None:
    call = case.prepare(place)
    fault: BaseException | None = None
    returned: object = None
    with watching() as seen:
        try:
            with bounded(mib=_MEMORY_MIB, seconds=5 * LONGEST):
                returned = call()
        except Exception as error:  # noqa: BLE001 - any other than the right one is what is counted
            fault = error
    if breach := place.outside.breach(seen):
        tally.code_run += 1
        return breach
    problem = _wrong(case, place, fault, returned) or _late(seen)
    if problem and fault is None:
        tally.wrong_results += 1
    return problem


def _wrong(case: Case, place: Place, fault: BaseException | None, returned: object) -> str | None:
    if case.error is None:
        if fault is not None:
            return f"raised {type(fault).__name__}: {fault}"
        return case.accepts(returned)
    if fault is None:
        return f"was taken: {str(returned)[:80]}"
    if type(fault) is not case.error:
        return f"raised {type(fault).__name__} ({str(fault)[:200]}), not {case.error.__name__}"
    return wrong_line(str(fault), [part.format(root=place.root) for part in case.says])


def wrong_line(line: str, parts: Sequence[str]) -> str | None:
    """What is wrong with a line that tells an error, or None."""
    if "\n" in line or not line.isprintable():
        return f"is not one printable line: {line!r}"
    if len(line) > _LONGEST_LINE:
        return f"is a line of {len(line)} characters"
    missing = [part for part in parts if part not in line]
    return f"does not say {missing[0]!r}: {line}" if missing else None


def _late(seen: Seen) -> str | None:
    return f"computed for {seen.seconds:.1f} s" if seen.seconds > LONGEST else None
