"""One job of a sweep: what it records, what it tells the sweeper, and when it does not begin."""

from __future__ import annotations

import os
import pickle
import signal
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, open_dict

from quantpipe.cli import task as task_module
from quantpipe.cli.composition import config_folder
from quantpipe.cli.config import CheckedRun
from quantpipe.cli.sweep_jobs import SweepJobs
from quantpipe.cli.task import JobFailedError, SweepTask
from quantpipe.errors import DataError, Interrupted, MachineError
from quantpipe.report.summary import RunInfo, build_summary, save_summary
from quantpipe.report.variant import Variant

Run = Callable[[CheckedRun, Any], None]


@pytest.fixture
def task(tmp_path: Path) -> SweepTask:
    jobs = SweepJobs(folder=tmp_path / "s", token="t")
    jobs.open()
    return SweepTask(folder=tmp_path, jobs=jobs, pid=os.getpid(), wants_value=False)


@pytest.fixture
def run_info() -> RunInfo:
    return RunInfo(
        pipeline="ptq",
        command="quantpipe",
        started="2026-01-12T09:31:02+00:00",
        seconds=1.0,
        seed=0,
        device="cpu",
        hardware="2 cores",
        model="shapes_detector",
        data="shapes",
        versions={},
    )


@pytest.fixture(autouse=True)
def handlers() -> Iterator[None]:
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def config_of(
    task: SweepTask, *overrides: str, number: int = 0, subdir: str | None = None
) -> DictConfig:
    """The configuration as a launcher hands it to a job."""
    with initialize_config_dir(str(config_folder()), version_base="1.3"):
        given = ["pipelines=ptq", "device=cpu", *overrides]
        config = compose("config", overrides=given, return_hydra_config=True)
    with open_dict(config):
        config.hydra.job.num = number
        config.hydra.runtime.output_dir = str(task.jobs.folder / (subdir or str(number)))
    HydraConfig.instance().set_config(config)
    return config


def running(monkeypatch: pytest.MonkeyPatch, run: Run) -> None:
    monkeypatch.setattr(task_module, "run_checked", run)


def called(task: SweepTask, config: DictConfig) -> Any:
    with open_dict(config):
        del config["hydra"]
    return task(config)


def measuring(info: RunInfo, **values: Any) -> Run:
    def run(checked: CheckedRun, stopped: Any) -> None:
        variant = Variant(
            name="ptq", precision="int8", engine="openvino", image_size=64, map50=0.5, **values
        )
        save_summary(checked.settings.run_dir / "summary.json", build_summary(info, [variant], []))

    return run


def test_it_runs_in_its_own_folder_and_relative_paths_mean_the_commands(
    monkeypatch: pytest.MonkeyPatch, task: SweepTask, tmp_path: Path, run_info: RunInfo
) -> None:
    seen: list[tuple[Path, Path]] = []

    def run(checked: CheckedRun, stopped: Any) -> None:
        seen.append((checked.settings.run_dir, checked.settings.cache_dir.absolute()))
        measuring(run_info, map=0.4)(checked, stopped)

    running(monkeypatch, run)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    assert called(task, config_of(task, "cache_dir=mine", number=3)) == 0
    assert seen == [(tmp_path / "s" / "3", tmp_path / "mine")]
    assert Path.cwd() == elsewhere
    (job,) = task.jobs
    assert (job.number, job.code, job.told) == (3, 0, None)
    assert job.overrides == ("pipelines=ptq", "device=cpu", "cache_dir=mine")


@pytest.mark.parametrize(
    ("objective", "told"),
    [
        ("objective=map of ptq", 0.4),
        ("objective=[map50 of ptq,map of ptq]", (0.5, 0.4)),
    ],
)
def test_the_sweeper_is_told_what_was_measured(
    monkeypatch: pytest.MonkeyPatch, task: SweepTask, run_info: RunInfo, objective: str, told: Any
) -> None:
    running(monkeypatch, measuring(run_info, map=0.4))
    assert called(replace(task, wants_value=True), config_of(task, objective)) == told


def test_what_was_not_measured_is_no_value(
    monkeypatch: pytest.MonkeyPatch, task: SweepTask, run_info: RunInfo
) -> None:
    running(monkeypatch, measuring(run_info))
    with pytest.raises(JobFailedError):
        called(replace(task, wants_value=True), config_of(task, "objective=map of ptq"))
    (job,) = task.jobs
    assert (job.code, job.told) == (5, "objective: map of ptq was not measured; its table says why")


def failing(error: Exception) -> Run:
    def run(checked: CheckedRun, stopped: Any) -> None:
        raise error

    return run


@pytest.mark.parametrize(
    ("error", "code"), [(DataError("is empty"), 3), (MachineError("full"), 5), (KeyError("x"), 1)]
)
def test_a_failure_is_recorded_and_leaves_the_other_jobs(
    monkeypatch: pytest.MonkeyPatch, task: SweepTask, error: Exception, code: int
) -> None:
    running(monkeypatch, failing(error))
    assert called(task, config_of(task)) == code
    (job,) = task.jobs
    assert job.code == code
    assert job.told
    assert task.jobs.stopped() is None
    with pytest.raises(JobFailedError):
        called(replace(task, wants_value=True), config_of(task, number=1))


def test_a_job_that_was_configured_wrongly_is_recorded_too(task: SweepTask) -> None:
    """A sweeper that chooses as it goes may choose what cannot be."""
    assert called(task, config_of(task, "calibrate.percentile=200")) == 2
    (job,) = task.jobs
    assert str(job.told).startswith("calibrate.percentile: 200")


def test_a_signal_ends_the_sweep_where_the_job_is_in_the_commands_process(
    monkeypatch: pytest.MonkeyPatch, task: SweepTask
) -> None:
    running(monkeypatch, failing(Interrupted(signal.SIGINT)))
    with pytest.raises(SystemExit) as caught:
        called(task, config_of(task))
    assert caught.value.code == 130
    assert task.jobs.stopped() == signal.SIGINT


def test_a_launchers_process_lives_on_and_its_next_job_does_not_begin(
    monkeypatch: pytest.MonkeyPatch, task: SweepTask
) -> None:
    elsewhere: SweepTask = pickle.loads(pickle.dumps(replace(task, pid=-1)))
    running(monkeypatch, failing(Interrupted(signal.SIGINT)))
    assert called(elsewhere, config_of(task)) == 130
    running(monkeypatch, failing(AssertionError("was begun")))
    assert called(elsewhere, config_of(task, number=1)) == 130
    assert [job.number for job in task.jobs] == [0]
    assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN


def test_a_job_sees_that_its_command_was_stopped(
    monkeypatch: pytest.MonkeyPatch, task: SweepTask
) -> None:
    def run(checked: CheckedRun, stopped: Callable[[], int | None]) -> None:
        assert stopped() is None
        task.jobs.stop(signal.SIGTERM)
        raise Interrupted(stopped() or 0)

    running(monkeypatch, run)
    assert called(replace(task, pid=-1), config_of(task)) == 143


def test_two_jobs_of_one_folder_do_not_overwrite_each_other(
    monkeypatch: pytest.MonkeyPatch, task: SweepTask, run_info: RunInfo
) -> None:
    running(monkeypatch, measuring(run_info, map=0.4))
    assert called(task, config_of(task)) == 0
    assert called(task, config_of(task, number=1, subdir="0")) == 2
    assert [job.code for job in task.jobs] == [0, 2]
