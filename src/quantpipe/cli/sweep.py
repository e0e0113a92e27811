"""A sweep from its plan to its table, whoever runs the jobs and whatever ends them."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import Any

from hydra._internal.config_loader_impl import ConfigLoaderImpl
from omegaconf import DictConfig

from quantpipe.cli.outcome import outcome_of
from quantpipe.cli.presentation import COMPARISON, present_sweep
from quantpipe.cli.sweep_jobs import SweepJobs
from quantpipe.cli.sweep_plan import SweepPlan, claimed_folder, plan_sweep, quoted, tell_hydra
from quantpipe.cli.task import JobFailedError, SweepTask
from quantpipe.core.lock import exclusive_lock_or_busy
from quantpipe.errors import BusyError
from quantpipe.report.sweep import SweepJob

_POLL_SECONDS = 0.2
_AT_ONCE_SECONDS = 10.0
_STOPPING = b"quantpipe: stopping: running jobs save and end, no other begins; again ends at once\n"


def run_sweep(
    config: DictConfig,
    loader: ConfigLoaderImpl,
    given: Sequence[str],
    hydra: Callable[[SweepTask], Any],
) -> int:
    """Checks all jobs, lets Hydra run them, and compares those that ended.

    Args:
        config: The composed configuration of the sweep.
        loader: Composes those of its jobs.
        given: The overrides on the command line.
        hydra: Runs a task as the command line says.

    Returns:
        The worst exit code, or that of the signal that ended the sweep.

    Raises:
        QuantpipeError: before any job; nothing was written.
    """
    plan = plan_sweep(config, loader)
    folder = claimed_folder(plan)
    jobs = SweepJobs(folder=folder, token=uuid.uuid4().hex)
    tell_hydra(given, [f"hydra.sweep.dir={quoted(str(folder))}", *plan.overrides])
    for override in plan.overrides:
        print(f"for the objective: {override}", file=sys.stderr)  # noqa: T201
    task = SweepTask(
        folder=Path.cwd(), jobs=jobs, pid=os.getpid(), wants_value=bool(plan.objectives)
    )
    with _held(folder):
        jobs.open()
        # Of an earlier sweep, whose jobs these may overwrite.
        (folder / COMPARISON).unlink(missing_ok=True)
        with _stopping(jobs):
            code = _through_hydra(lambda: hydra(task), jobs)
            return _finished(plan, jobs, code)


@contextmanager
def _held(folder: Path) -> Iterator[None]:
    try:
        with exclusive_lock_or_busy(folder / ".sweep.lock"):
            yield
    except BusyError as error:
        if error.path == folder:
            error.hint = "wait for it, or give this sweep its own hydra.sweep.dir"
        raise


def _through_hydra(run: Callable[[], Any], jobs: SweepJobs) -> int:
    """The exit code of sweeper and launcher; what their jobs told by themselves is not theirs."""

    def work() -> None:
        try:
            run()
        except JobFailedError:
            pass
        except Exception:
            _await_those_left(jobs)
            if jobs.stopped() is None and not jobs.unfinished():
                raise

    try:
        return outcome_of(work).code
    except SystemExit as error:  # of a job in this process, by a signal
        return error.code if isinstance(error.code, int) else 1


def _await_those_left(jobs: SweepJobs) -> None:
    """A launcher gives up when it loses one job; others may live on."""
    while any(job.runs_here for job in jobs):
        time.sleep(_POLL_SECONDS)


def _finished(plan: SweepPlan, jobs: SweepJobs, code: int) -> int:
    """Tells of lost jobs, writes and prints the comparison, and returns the exit code."""
    for job in jobs.settle():
        print(f"quantpipe: error: job {job.number}: {job.told}", file=sys.stderr)  # noqa: T201
    begun = {
        job.number: SweepJob(
            name=os.path.relpath(job.folder, jobs.folder),
            overrides=job.overrides,
            summary_path=Path(job.folder) / "summary.json",
            failure=job.told,
        )
        for job in jobs
    }
    planned = {
        number: SweepJob(
            name=job.name,
            overrides=job.overrides,
            summary_path=jobs.folder / job.name / "summary.json",
            failure="not started",
        )
        for number, job in enumerate(plan.jobs)
    }
    if begun:
        compared = {**planned, **begun}
        present_sweep(jobs.folder, [compared[n] for n in sorted(compared)], plan.objectives)
    stopped = jobs.stopped()
    if stopped is not None:
        return 128 + stopped
    worst = max((job.code or 0 for job in jobs), default=0)
    jobs.close()
    return max(code, worst)


@contextmanager
def _stopping(jobs: SweepJobs) -> Iterator[None]:
    """The first signal asks all jobs to end, the second ends them.

    Nothing is raised: sweeper and launcher could be anywhere, and would wait for ever.
    """
    came: list[int] = []

    def handle(number: int, frame: FrameType | None) -> None:  # noqa: ARG001
        came.append(number)
        if len(came) == 1:
            jobs.stop(number)
            os.write(2, _STOPPING)
            return
        for job in jobs:
            if job.runs_here:
                with suppress(ProcessLookupError):
                    os.kill(job.pid, signal.SIGKILL)
        if len(came) == 2:
            end = threading.Timer(_AT_ONCE_SECONDS, _end_at_once, (jobs, came[0]))
            end.daemon = True
            end.start()

    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    for number in before:
        signal.signal(number, handle)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _end_at_once(jobs: SweepJobs, number: int) -> None:
    """For a launcher that does not notice that its jobs are gone."""
    jobs.settle()
    os._exit(128 + number)
