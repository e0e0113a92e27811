"""Injects every fault of every campaign, counts, and prints one table.

python -m faults [--share 0.1] [--seed N] [--only NAME ...] [--json FILE] [--markdown]
    [--cost FILE]

Exits with 1 if a fault was not survived or a mutant of the store not noticed, with a line for each.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

from faults.campaigns import CAMPAIGNS, MUTANTS
from faults.pool import AT_ONCE, run_all
from faults.table import printed
from faults.tally import Tally
from rich.console import Console

_SHOWN_FAILURES = 20


def main() -> int:
    """Runs what was asked for; returns the exit code."""
    arguments = _arguments()
    every = (*CAMPAIGNS, MUTANTS)
    entries = [entry for entry in every if entry.name in (arguments.only or _names())]
    start = time.monotonic()
    tallies = run_all(entries, arguments.seed, arguments.share)
    console = Console(highlight=False, soft_wrap=True)
    printed(console, [t for t in tallies if t.campaign != MUTANTS.name], arguments.markdown)
    for line in (line for tally in tallies for line in _lines(tally)):
        console.print(line, markup=False)
    for line in _cost(arguments.cost):
        console.print(line, markup=False)
    console.print(f"{time.monotonic() - start:.0f} s, {AT_ONCE} campaigns at a time")
    if arguments.json:
        document = {"seed": arguments.seed, "share": arguments.share}
        document["campaigns"] = [asdict(tally) for tally in tallies]
        arguments.json.write_text(json.dumps(document, indent=2) + "\n")
    failures = [line for tally in tallies for line in _failures(tally)]
    for line in failures:
        console.print(line, markup=False, style="red")
    return 1 if failures else 0


def _names() -> list[str]:
    return [entry.name for entry in (*CAMPAIGNS, MUTANTS)]


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m faults", description=(__doc__ or "").partition("\n")[0]
    )
    parser.add_argument("--share", type=float, default=1.0, help="of the faults, in 0..1")
    parser.add_argument("--seed", type=int, default=0, help="of all random choices")
    parser.add_argument("--only", nargs="+", choices=_names(), help="campaigns; without, all")
    parser.add_argument("--json", type=Path, help="write all counts to a file")
    cost = "show what the store costs: the file that benchmarks/store_cost.py --json wrote"
    parser.add_argument("--cost", type=Path, help=cost)
    parser.add_argument("--markdown", action="store_true", help="print the table for a document")
    return parser.parse_args()


def _lines(tally: Tally) -> Iterator[str]:
    """What does not fit a table."""
    if tally.campaign == MUTANTS.name:
        yield f"mutants of the store: {tally.survived} of {tally.tried} caught"
    for name, value in tally.measured.items():
        yield f"{tally.campaign}: {name} {value:.3g}"


def _cost(figures: Path | None) -> Iterator[str]:
    """The store's share of a run, measured by a command of its own as it takes minutes."""
    if figures is None:
        return
    for name, run in json.loads(figures.read_text())["runs"].items():
        share, store = 100 * run["share"], run["store_seconds"]
        yield (
            f"cost, {name}: {store:.2f} s of {run['seconds']:.1f} s = {share:.2f} % for digests, "
            "syncs, locks and copies"
        )


def _failures(tally: Tally) -> list[str]:
    shown = [f"{tally.campaign}: {line}" for line in tally.failures[:_SHOWN_FAILURES]]
    more = len(tally.failures) - len(shown)
    return [*shown, f"{tally.campaign}: and {more} more"] if more > 0 else shown


if __name__ == "__main__":
    sys.exit(main())
