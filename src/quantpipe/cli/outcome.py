"""How work ended: every fault becomes one line and an exit code."""

from __future__ import annotations

import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from quantpipe.cli.composition import COMPOSITION_FAULTS
from quantpipe.cli.explain import explain
from quantpipe.errors import Interrupted, QuantpipeError

_INTERNAL_ERROR = 1


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """An exit code, and the line that was told; None where all went well."""

    code: int
    told: str | None = None


def outcome_of(work: Callable[[], Any]) -> Outcome:
    """Does the work and tells its fault, if it has one."""
    try:
        work()
    except Interrupted as error:
        # The end has begun: another signal would only tell it a second time.
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                signal.signal(number, signal.SIG_IGN)
        return _tell(error)
    except QuantpipeError as error:
        return _tell(error)
    except COMPOSITION_FAULTS as error:
        return _tell(explain(error))
    except BrokenPipeError:
        # Whoever read the output has enough of it (``quantpipe --help | head``).
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return Outcome(code=128 + signal.SIGPIPE)
    except KeyboardInterrupt:
        print("quantpipe: interrupted", file=sys.stderr)  # noqa: T201
        return Outcome(code=128 + signal.SIGINT, told="interrupted")
    except Exception as error:  # noqa: BLE001 - the last line of defense: one line, or the traceback
        return _tell_internal(error)
    return Outcome(code=0)


def _debugging() -> bool:
    """Whether the command line asks for tracebacks, also before it is composed."""
    return any(text.lower() == "debug=true" for text in sys.argv)


def _tell(error: QuantpipeError) -> Outcome:
    if _debugging():
        traceback.print_exception(error)
    print(f"quantpipe: error: {error}", file=sys.stderr)  # noqa: T201
    return Outcome(code=error.exit_code, told=str(error))


def _tell_internal(error: Exception) -> Outcome:
    if _debugging():
        traceback.print_exception(error)
    text = " ".join(str(error).split()) or "no message"
    line = f"internal error: {type(error).__name__}: {text}"
    print(f"quantpipe: {line}; run with debug=true for the traceback", file=sys.stderr)  # noqa: T201
    return Outcome(code=_INTERNAL_ERROR, told=line)
