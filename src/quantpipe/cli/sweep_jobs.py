"""What the jobs of a sweep leave for the command that started it, whichever process runs them.

Layout below the sweep's folder, for one command (``token``)::

    .jobs/<token>/<number>.json    a job: where it is, and how it ended
    .jobs/<token>/<digest>.folder  the number of the job that a folder is for
    .jobs/<token>/stop             the signal that asks all of them to stop
"""

from __future__ import annotations

import json
import os
import shutil
import socket
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from signal import SIGTERM
from typing import Any

from quantpipe.errors import ConfigurationError, Interrupted, MachineError, QuantpipeError
from quantpipe.files import sha256_bytes, write_atomic, write_json

_RECORDS = ".jobs"
_STOP = "stop"


@dataclass(frozen=True, kw_only=True)
class Job:
    """A job that was begun.

    Attributes:
        number: Its place in the sweep.
        folder: Its run directory.
        overrides: Of the command, as this job has them.
        host: Where it runs.
        pid: And as which process.
        code: Its exit code, once it ended.
        told: The line in which it said why it failed.
    """

    number: int
    folder: str
    overrides: tuple[str, ...]
    host: str
    pid: int
    code: int | None = None
    told: str | None = None

    @property
    def runs_here(self) -> bool:
        """Whether another process of this host runs it still."""
        here = self.host == socket.gethostname() and self.pid != os.getpid()
        return self.code is None and here and _is_alive(self.pid)


def started_job(number: int, folder: str, overrides: Sequence[str]) -> Job:
    """A job that this process runs."""
    return Job(
        number=int(number),
        folder=str(folder),
        overrides=tuple(overrides),
        host=socket.gethostname(),
        pid=os.getpid(),
    )


@dataclass(frozen=True, kw_only=True)
class SweepJobs:
    """The records of one command's jobs; pickled to wherever they run.

    Attributes:
        folder: The sweep's, absolute.
        token: Of this command alone: the folder may have served another sweep.
    """

    folder: Path
    token: str

    @property
    def _records(self) -> Path:
        return self.folder / _RECORDS / self.token

    def open(self) -> None:
        """Forgets the records of earlier sweeps; whoever calls it holds the sweep's lock."""
        shutil.rmtree(self.folder / _RECORDS, ignore_errors=True)
        self._records.mkdir(parents=True)

    def close(self) -> None:
        """Removes the records once nobody reads them any more."""
        shutil.rmtree(self.folder / _RECORDS, ignore_errors=True)

    def begin(self, job: Job) -> None:
        """Records that a job runs.

        Raises:
            ConfigurationError: Its folder is another job's.
        """
        self._write(job)
        claim = self._records / f"{sha256_bytes(job.folder.encode())[:32]}.folder"
        try:
            with claim.open("x") as file:
                file.write(str(job.number))
        except FileExistsError:
            owner = claim.read_text()
            if owner != str(job.number):  # a launcher may start a job again
                raise shared_folder(owner, str(job.number), Path(job.folder)) from None

    def end(self, job: Job, code: int, told: str | None) -> None:
        """Records how a job ended; one that a signal ended lets no other begin."""
        with suppress(OSError):  # on a full disk it counts as lost
            self._write(replace(job, code=code, told=told))
        if code > 128:
            self.stop(code - 128)

    def stop(self, signal_number: int) -> None:
        """Asks the jobs that run to end, and those that do not run yet not to begin."""
        with suppress(OSError):  # on a full disk those that the signal reached end by themselves
            write_atomic(self._records / _STOP, str(int(signal_number)).encode())

    def stopped(self) -> int | None:
        """The signal by which the sweep was asked to stop, if it was."""
        try:
            return int((self._records / _STOP).read_text())
        except (OSError, ValueError):
            # Without its records the sweep is over, and another one may use the folder.
            return None if self._records.is_dir() else int(SIGTERM)

    def __iter__(self) -> Iterator[Job]:
        """The jobs that were begun, by number."""
        found = [json.loads(path.read_bytes()) for path in self._records.glob("*.json")]
        for values in sorted(found, key=lambda values: int(values["number"])):
            yield Job(**{**values, "overrides": tuple(values["overrides"])})

    def unfinished(self) -> list[Job]:
        """Jobs that were begun and did not say how they ended."""
        return [job for job in self if job.code is None]

    def settle(self) -> list[Job]:
        """Records an end for jobs that say none, in their status too; returns them.

        For when the launcher is done: whatever had not ended then will not.
        """
        number = self.stopped()
        lost: QuantpipeError = MachineError(
            "its process ended without a word", hint="it may lack memory"
        )
        state = "failed"
        if number is not None:
            lost, state = Interrupted(number), "interrupted"
        settled = [replace(job, code=lost.exit_code, told=str(lost)) for job in self.unfinished()]
        for job in settled:
            self._write(job)
            _settle_status(job, state)
        return settled

    def _write(self, job: Job) -> None:
        write_json(self._records / f"{job.number}.json", asdict(job))


def _is_alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state not in "ZX"


def shared_folder(one: str, other: str, folder: Path) -> ConfigurationError:
    """The fault of two jobs that would overwrite each other's results."""
    return ConfigurationError(
        f"jobs {one} and {other} would both use {folder}",
        path="hydra.sweep.subdir",
        hint="let it name what differs, as '${hydra.job.num}' does",
    )


def _settle_status(job: Job, state: str) -> None:
    """Says in the run directory what its own process could not."""
    path = Path(job.folder) / "status.json"
    try:
        status: dict[str, Any] = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return
    if status.get("state") == "running" and status.get("pid") == job.pid:
        more = {"overrides": list(job.overrides), "error": job.told, "exit_code": job.code}
        write_json(path, {**status, "state": state, **more})
