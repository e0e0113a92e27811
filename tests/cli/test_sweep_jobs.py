"""Jobs leave what the command needs to know of them, whichever process ran or lost them."""

from __future__ import annotations

import json
import os
import pickle
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from quantpipe.cli.sweep_jobs import SweepJobs, started_job
from quantpipe.errors import ConfigurationError


@pytest.fixture
def jobs(tmp_path: Path) -> SweepJobs:
    opened = SweepJobs(folder=tmp_path, token="this")
    opened.open()
    return opened


def test_what_a_pickled_copy_records_is_read(jobs: SweepJobs, tmp_path: Path) -> None:
    copy: SweepJobs = pickle.loads(pickle.dumps(jobs))
    for number in (10, 9):
        job = started_job(number, str(tmp_path / str(number)), [f"seed={number}"])
        copy.begin(job)
        copy.end(job, 3 if number == 9 else 0, "is empty" if number == 9 else None)
    assert [(j.number, j.code, j.told, j.overrides) for j in jobs] == [
        (9, 3, "is empty", ("seed=9",)),
        (10, 0, None, ("seed=10",)),
    ]
    assert jobs.unfinished() == []


def test_only_the_jobs_of_this_command_are_read(jobs: SweepJobs, tmp_path: Path) -> None:
    jobs.begin(started_job(0, str(tmp_path / "0"), ()))
    later = SweepJobs(folder=tmp_path, token="later")
    later.open()
    assert list(later) == []
    late = started_job(1, str(tmp_path / "1"), ())
    jobs.end(late, 0, None)  # of a process that outlived its command
    assert list(later) == []


def test_a_folder_is_one_jobs(jobs: SweepJobs, tmp_path: Path) -> None:
    first = started_job(0, str(tmp_path / "same"), ())
    jobs.begin(first)
    jobs.begin(first)  # a launcher may start a job again
    with pytest.raises(ConfigurationError, match=r"jobs 0 and 1 would both use .*same"):
        jobs.begin(started_job(1, str(tmp_path / "same"), ()))


def test_a_job_that_a_signal_ended_stops_the_others(jobs: SweepJobs, tmp_path: Path) -> None:
    assert jobs.stopped() is None
    jobs.end(started_job(0, str(tmp_path / "0"), ()), 5, "full")
    assert jobs.stopped() is None
    jobs.end(started_job(1, str(tmp_path / "1"), ()), 130, "interrupted")
    assert jobs.stopped() == signal.SIGINT


def test_a_job_whose_command_is_over_does_not_begin(jobs: SweepJobs) -> None:
    jobs.close()
    assert jobs.stopped() == signal.SIGTERM


def lost(jobs: SweepJobs, folder: Path, number: int = 0) -> Path:
    """A job of a process that is gone, with its status as it left it."""
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    job = replace(started_job(number, str(folder), ("seed=1",)), pid=gone.pid)
    jobs.begin(job)
    folder.mkdir()
    status = folder / "status.json"
    status.write_text(json.dumps({"state": "running", "step": "calibrate", "pid": gone.pid}))
    return status


@pytest.mark.parametrize(
    ("signal_number", "code", "state"),
    [(None, 5, "failed"), (signal.SIGTERM, 143, "interrupted")],
)
def test_a_lost_job_does_not_stay_running(
    jobs: SweepJobs, tmp_path: Path, signal_number: int | None, code: int, state: str
) -> None:
    status = lost(jobs, tmp_path / "0")
    assert not jobs.unfinished()[0].runs_here
    if signal_number is not None:
        jobs.stop(signal_number)
    (settled,) = jobs.settle()
    assert settled.code == code
    found = json.loads(status.read_text())
    assert (found["state"], found["exit_code"], found["step"]) == (state, code, "calibrate")
    assert found["error"] == settled.told
    assert found["overrides"] == ["seed=1"]
    assert jobs.settle() == []


def test_the_status_of_another_run_is_left_alone(jobs: SweepJobs, tmp_path: Path) -> None:
    status = lost(jobs, tmp_path / "0")
    theirs = json.dumps({"state": "running", "pid": os.getpid()})
    status.write_text(theirs)
    jobs.settle()
    assert status.read_text() == theirs


def test_a_job_that_runs_is_known_to(jobs: SweepJobs, tmp_path: Path) -> None:
    with subprocess.Popen(["/bin/sleep", "60"]) as sleeper:
        job = replace(started_job(0, str(tmp_path / "0"), ()), pid=sleeper.pid)
        assert job.runs_here
        assert not replace(job, host="elsewhere").runs_here
        assert not replace(job, code=0).runs_here
        sleeper.kill()
    assert not job.runs_here
