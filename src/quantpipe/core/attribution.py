"""Errors of a step get its name, and faults of the machine an exit code and a hint."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from quantpipe.errors import MachineError, QuantpipeError
from quantpipe.files import FULL, NoRoomError

_MIB = 1 << 20
_OUT_OF_MEMORY = ("out of memory", "not enough memory", "can't allocate memory")


@contextmanager
def attribute_errors(step: str | None) -> Iterator[None]:
    """Gives errors the name of the step, and faults of the machine an exit code and a hint."""
    try:
        yield
    except QuantpipeError as error:
        error.stage = step if error.stage is None else error.stage
        raise
    except OSError as error:
        raise _from_os_error(error, step) from error
    except (MemoryError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and not _is_out_of_memory(error):
            raise
        fault = MachineError("out of memory", hint="lower its batch_size or the image size")
        fault.stage = step
        raise fault from error


def _is_out_of_memory(error: RuntimeError) -> bool:
    return any(text in str(error).lower() for text in _OUT_OF_MEMORY)


def _from_os_error(error: OSError, step: str | None) -> MachineError:
    cause = error.strerror or str(error)
    hint = "see that the path can be written and read"
    if error.errno in FULL:
        free = shutil.disk_usage(_existing(Path(error.filename or "."))).free / _MIB
        needed = ""
        if isinstance(error, NoRoomError):
            needed = f"at least {error.needed / _MIB:.1f} MiB are needed and "
        hint = (
            f"{needed}{free:.1f} MiB are free there; "
            "make room or set cache_dir and run_dir elsewhere"
        )
    fault = MachineError(cause, path=error.filename, hint=hint)
    fault.stage = step
    return fault


def _existing(path: Path) -> Path:
    """The nearest folder above a path that is still there."""
    return next(folder for folder in (path, *path.absolute().parents) if folder.exists())
