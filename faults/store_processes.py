"""Forked processes: one that may be killed at any time, and what it told before."""

from __future__ import annotations

import gc
import os
import pickle
import shutil
import tempfile
import traceback
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# A kill takes nothing from memory that the kernel holds, so that a disk would only be slower.
_MEMORY = Path("/dev/shm")


@dataclass(frozen=True)
class Ended:
    """How a process ended: its exit code (minus the signal), and its value or its traceback."""

    code: int
    value: Any = None
    trace: str = ""


def forked(work: Callable[[], object]) -> int:
    """Starts ``work`` in a forked process and returns its id; it exits with 0, or 1 on an error."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # a test runner may have threads
        child = os.fork()
    if child:
        return child
    # What libraries with threads of their own left behind must not be collected here: their
    # destructors would wait for threads that a fork does not copy.
    gc.freeze()
    code = 1
    try:
        work()
        code = 0
    except BaseException:  # noqa: BLE001 - nothing of the parent may run here
        traceback.print_exc()
    finally:
        os._exit(code)


def exit_code(child: int) -> int:
    """Waits for a forked process; a signal counts as minus its number."""
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def in_child(work: Callable[[], Any]) -> Ended:
    """Does ``work`` in a forked process and returns how that ended."""
    reading, writing = os.pipe()

    def answer() -> None:
        os.close(reading)
        _answer(work, writing)

    child = forked(answer)
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        told = pipe.read()
    code = exit_code(child)
    if not told or code:
        return Ended(code)
    value, trace = pickle.loads(told)
    return Ended(1 if trace else 0, value, trace)


def _answer(work: Callable[[], Any], writing: int) -> None:
    send, close = os.write, os.close  # they may be watched later
    value, trace = None, ""
    try:
        value = work()
    except BaseException:  # noqa: BLE001 - nothing of the parent may run here
        trace = traceback.format_exc()
    try:
        answer = memoryview(pickle.dumps((value, trace)))
        while answer:
            answer = answer[send(writing, answer) :]
        close(writing)
    finally:
        os._exit(0)


@contextmanager
def scratch() -> Iterator[Path]:
    """A folder for one campaign, in memory where there is such a place; removed at the end."""
    place = _MEMORY if os.access(_MEMORY, os.W_OK) else None
    folder = Path(tempfile.mkdtemp(prefix="faults-", dir=place))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
