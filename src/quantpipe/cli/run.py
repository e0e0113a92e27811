"""One run from its configuration to its table: the runner, then what people look at."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

from quantpipe.cli.config import CheckedRun, to_yaml
from quantpipe.cli.presentation import present
from quantpipe.core.attribution import attribute_errors
from quantpipe.core.run_cache import RunCache
from quantpipe.core.run_directory import RunDirectory
from quantpipe.core.runner import Runner, run_pipeline
from quantpipe.core.signals import StopRequest, stop_on_signals
from quantpipe.errors import Interrupted, MachineError, QuantpipeError
from quantpipe.files import write_atomic
from quantpipe.progress import Progress
from quantpipe.report.progress import watching
from quantpipe.report.run_log import Logged


def run_checked(run: CheckedRun, elsewhere: Callable[[], int | None] = lambda: None) -> None:
    """Carries out a checked run in its directory and shows what came of it.

    Args:
        run: What to do.
        elsewhere: The signal that came to the command whose job it is, if one did.

    Raises:
        QuantpipeError: after the status was written; what was finished is kept.
    """
    root = run.settings.run_dir.absolute()
    require_writable(root, "run_dir")
    limits = _read_only(run.settings.cache_dir.absolute())
    with (
        stop_on_signals(elsewhere) as stop,
        stop.explained(),
        watching(stop) as shown,
        attribute_errors(None),
    ):
        progress = Logged(shown, root / "run.log")
        directory = RunDirectory(root, warn=progress.note)
        with directory.held():
            if limits is not None:
                progress.note(limits)
            _run_held(run, directory, stop, progress)


def _run_held(
    run: CheckedRun, directory: RunDirectory, stop: StopRequest, progress: Progress
) -> None:
    try:
        with attribute_errors(None), stop.explained():
            _run_and_present(run, directory, stop, progress)
    except QuantpipeError as error:
        state = "interrupted" if isinstance(error, Interrupted) else "failed"
        with suppress(OSError):  # a full disk must not hide why the run failed
            directory.write_status(
                state,
                error.stage,
                overrides=run.overrides,
                error=str(error),
                exit_code=error.exit_code,
            )
        raise


def _run_and_present(
    run: CheckedRun, directory: RunDirectory, stop: StopRequest, progress: Progress
) -> None:
    cache = RunCache(
        run.settings.cache_dir.absolute(), warn=progress.note, still_wanted=stop.raise_if_set
    )
    runner = Runner(
        cache=cache,
        run_directory=directory,
        progress=progress,
        stop=stop,
        seed=run.settings.seed,
        device=run.device,
    )
    write_atomic(directory.root / "config.yaml", to_yaml(run.composed).encode())
    started, start = datetime.now(UTC).astimezone(), time.monotonic()
    records = run_pipeline(run.pipeline, runner)
    directory.remove_unclaimed()
    directory.write_manifest(run.pipeline.name, {r.step: r.as_json() for r in records})
    seconds = time.monotonic() - start
    present(run, records, directory.root, started, seconds, progress)
    directory.write_status("done", None, overrides=run.overrides, exit_code=0)


def _read_only(cache: Path) -> str | None:
    """Refuses a cache that is of no use; what can only be read still serves, and is told."""
    try:
        require_writable(cache, "cache_dir")
    except MachineError as error:
        if not (cache / "objects").is_dir():
            raise
        return f"{cache} can only be read ({error.cause}): what it holds is used, nothing is added"
    return None


def require_writable(folder: Path, setting: str) -> None:
    """Makes a folder, before any work is done.

    Raises:
        MachineError: It cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise MachineError(
            f"{error.strerror}", path=folder, hint=f"choose a folder to write in with {setting}="
        ) from error
