"""Hostile input as commands, each run by the real command line and judged by what it leaves."""

from __future__ import annotations

import random
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from faults.cases import Place, wrong_line
from faults.fork_server import Ended, ForkServer
from faults.tally import Tally
from faults.watched import Outside, Seen

_TOLD = "quantpipe: error: "
_TIMEOUT = 60.0


@dataclass(frozen=True, kw_only=True)
class Command:
    """One command that must be refused.

    Attributes:
        row: Number of the fault.
        name: Enough to find it again.
        prepare: Writes files and returns the arguments.
        code: The exit code.
        says: Parts of the one line.
        longest: Seconds it may compute.
        writes_nothing: Whether its working directory must be as before.
    """

    row: int
    name: str
    prepare: Callable[[Place], Sequence[str]]
    code: int
    says: tuple[str, ...] = ()
    longest: float = 2.0
    writes_nothing: bool = True


def run_commands(
    server: ForkServer, tally: Tally, commands: Sequence[Command], share: float
) -> None:
    """Runs a share of the commands, chosen and ordered by the seed of the tally."""
    started = time.monotonic()
    chosen = random.Random(tally.seed).sample(list(commands), max(1, round(len(commands) * share)))
    for command in chosen:
        with tempfile.TemporaryDirectory(prefix="faults-") as temporary:
            root = Path(temporary).resolve()
            place = Place(root / "here", Outside(root / "outside"))
            place.root.mkdir()
            problem = _judge(server, command, place, tally)
            tally.record(f"row {command.row}, {command.name}, on the command line", problem)
    tally.seconds += time.monotonic() - started


def _judge(server: ForkServer, command: Command, place: Place, tally: Tally) -> str | None:
    arguments = command.prepare(place)
    before = _contents(place.root)
    ended = server.run(place.root, *arguments, timeout=_TIMEOUT)
    if breach := place.outside.breach(Seen()):
        tally.code_run += 1
        return breach
    if command.writes_nothing and _contents(place.root) != before:
        return f"wrote {sorted(_contents(place.root) - before)[:3]}"
    if ended.cpu_seconds > command.longest:
        return f"computed for {ended.cpu_seconds:.1f} s"
    return _wrong(ended, command)


def _wrong(ended: Ended, command: Command) -> str | None:
    if "Traceback" in ended.err:
        return f"a traceback: {ended.err.splitlines()[-1]}"
    if ended.code != command.code:
        return f"exit code {ended.code}, not {command.code}: {ended.told or ended.err[-200:]}"
    if len(ended.told) != 1 or not ended.told[0].startswith(_TOLD):
        return f"told {ended.told}"
    if command.writes_nothing and ended.err != ended.told[0] + "\n":
        return f"more than a line: {ended.err[:200]!r}"
    return wrong_line(ended.told[0], command.says)


def _contents(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}
