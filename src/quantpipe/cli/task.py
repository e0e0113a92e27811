"""What Hydra calls for a run, and for each job of a sweep in whatever process a launcher chose."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import chdir
from dataclasses import dataclass
from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from quantpipe.cli.cache import keep_house
from quantpipe.cli.composition import override_texts
from quantpipe.cli.config import read_cache_settings, read_run
from quantpipe.cli.outcome import outcome_of
from quantpipe.cli.run import run_checked
from quantpipe.cli.sweep_jobs import Job, SweepJobs, started_job
from quantpipe.core.attribution import attribute_errors
from quantpipe.errors import MachineError
from quantpipe.report.objective import KEY
from quantpipe.report.summary import load_summary


class JobFailedError(Exception):
    """Tells a sweeper that a job has no value; the job has told why."""


@dataclass(frozen=True, kw_only=True)
class Task:
    """One run of its own, in the folder of the command: relative paths are meant from there."""

    folder: Path

    def __call__(self, config: DictConfig) -> int:
        """Runs what was composed."""
        overrides = override_texts(HydraConfig.get().overrides.task)
        with chdir(self.folder):
            outcome = outcome_of(lambda: self._do(config, overrides))
        if outcome.code:
            sys.exit(outcome.code)
        return 0

    def _do(self, config: DictConfig, overrides: list[str]) -> None:
        """Runs the pipeline, or looks after the cache where ``cache=`` says so."""
        settings, root = read_cache_settings(config)
        if settings.action == "use":
            run_checked(read_run(config, overrides))
        else:
            keep_house(settings, root)


@dataclass(frozen=True, kw_only=True)
class SweepTask:
    """One job of a sweep; pickled by launchers.

    Attributes:
        folder: That of the command.
        jobs: Where the job says what becomes of it.
        pid: The command's process.
        wants_value: Whether there is an objective.
    """

    folder: Path
    jobs: SweepJobs
    pid: int
    wants_value: bool

    def __call__(self, config: DictConfig) -> float | tuple[float, ...] | int:
        """Runs what was composed in a folder of its own below the sweep's.

        Returns:
            What the sweeper is told: the objective, or several; without one, the exit code.

        Raises:
            JobFailedError: There is no objective to tell.
        """
        if os.getpid() != self.pid:
            _leave_signals_to_jobs()
        stopped = self.jobs.stopped()
        if stopped is not None:
            return self._told(128 + stopped, ())
        hydra = HydraConfig.get()
        overrides = override_texts(hydra.overrides.task)
        job = started_job(hydra.job.num, hydra.runtime.output_dir, overrides)
        values: list[float] = []
        with chdir(self.folder):
            outcome = outcome_of(lambda: values.extend(self._run(job, config)))
        self.jobs.end(job, outcome.code, outcome.told)
        return self._told(outcome.code, values)

    def _run(self, job: Job, config: DictConfig) -> Iterator[float]:
        with attribute_errors(None):
            self.jobs.begin(job)
        config.run_dir = job.folder
        run = read_run(config, job.overrides)
        run_checked(run, self.jobs.stopped)
        summary = load_summary(Path(job.folder) / "summary.json")
        for objective in run.objectives:
            value = objective.value(summary.variants)
            if value is None:
                hint = "its table says why"
                raise MachineError(f"{objective} was not measured", path=KEY, hint=hint)
            yield value

    def _told(self, code: int, values: Sequence[float]) -> float | tuple[float, ...] | int:
        if code > 128 and os.getpid() == self.pid:
            sys.exit(code)  # only a signal ends the other jobs
        if code and self.wants_value:
            raise JobFailedError(f"exit code {code}")
        if not values:
            return code
        return values[0] if len(values) == 1 else tuple(values)


def _leave_signals_to_jobs() -> None:
    """Between jobs nothing is to be stopped in a launcher's process, which would die of it."""
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGINT, signal.SIG_IGN)
