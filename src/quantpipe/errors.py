"""What can go wrong for a user, and the exit code that says so.

Everybody may raise these; only the command catches them, and prints one line.
"""

from __future__ import annotations

import difflib
import signal
from collections.abc import Iterable
from pathlib import Path


class QuantpipeError(Exception):
    """A failure with a cause that a user can act on.

    Args:
        cause: What is wrong, with the offending value.
        path: The file or configuration key (``calibrate.percentile``) at fault, if there is one.
        hint: What to do next.
    """

    exit_code = 1

    def __init__(self, cause: str, *, path: Path | str | None = None, hint: str | None = None):
        super().__init__(cause)
        self.cause = cause
        self.path = path
        self.hint = hint
        self.stage: str | None = None

    def __str__(self) -> str:
        parts = [self.stage, None if self.path is None else str(self.path), self.cause]
        line = ": ".join(part for part in parts if part)
        line = line if self.hint is None else f"{line}; {self.hint}"
        # What a hostile file holds may be in the line, and could redraw a terminal.
        return "".join(c if c.isprintable() else "?" for c in " ".join(line.split()))


class ConfigurationError(QuantpipeError):
    """A configuration that names something unknown or holds a value out of range."""

    exit_code = 2


class UnsupportedError(ConfigurationError):
    """A value that the engine cannot do here, though it may elsewhere: it has no such kernels."""


class DataError(QuantpipeError):
    """A data set that cannot be read or means nothing."""

    exit_code = 3


class ArtifactError(QuantpipeError):
    """A checkpoint, scale cache, table, plan, model or engine that is not what it should be."""

    exit_code = 4


class MachineError(QuantpipeError):
    """The machine lacks something: a library, disk space, memory, a permission."""

    exit_code = 5


class NumericalError(QuantpipeError):
    """A NaN or an infinity where a number was needed."""

    exit_code = 6


class BusyError(QuantpipeError):
    """Another run holds the run directory."""

    exit_code = 75


class Interrupted(QuantpipeError):
    """A signal asked the run to stop; what was finished is kept."""

    def __init__(self, signal_number: int = signal.SIGTERM):
        super().__init__("interrupted", hint="run the same command again to go on from here")
        self.exit_code = 128 + signal_number


def nearest(name: str, known: Iterable[str]) -> str:
    """Returns ``did you mean 'x'?``, or the list of what is known where nothing is near."""
    names = sorted(known)
    near = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    if near:
        return f"did you mean '{near[0]}'?"
    return f"known: {', '.join(names)}" if names else "none is known"
