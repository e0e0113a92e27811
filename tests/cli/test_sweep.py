"""A sweep shows its own jobs and no others, wherever they are and whatever was there before."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest
from tests.command_line import Finished, fork

from quantpipe.cli.composition import check_composition, loader, read_arguments
from quantpipe.cli.sweep import run_sweep
from quantpipe.core.lock import exclusive_lock_or_busy

TINY = (
    "pipelines=ptq",
    "pipeline.steps=[train_repopt]",
    "device=cpu",
    "model.image_size=64",
    "model.width=0.125",
    "model.depth=0.1",
    "data.num_train=4",
    "data.num_val=2",
    "data.difficulty=0",
    "train_repopt.batch_size=4",
    "train_repopt.epochs=1",
    "train_repopt.validate_every=1",
    "train_repopt.search.epochs=1",
    "train_repopt.schedule.ema_ramp_steps=1",
)


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of all the sweeps here, so that what one trained the others reuse."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def here(tmp_path: Path) -> Path:
    folder = tmp_path / "here"
    folder.mkdir()
    return folder


def swept(here: Path, cache: Path, *overrides: str) -> Finished:
    return fork(here, "-m", *TINY, f"cache_dir={cache}", *overrides)


def table(folder: Path) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads((folder / "sweep.json").read_text())["jobs"]
    return found


def test_jobs_at_any_depth_are_in_the_table(here: Path, cache: Path) -> None:
    done = swept(here, cache, "seed=1,2", "hydra.sweep.dir=s", "hydra.sweep.subdir=a/b/${seed}")
    assert done.code == 0, done.err
    rows = table(here / "s")
    assert [row["job"] for row in rows] == ["a/b/1", "a/b/2"]
    assert [row["failure"] for row in rows] == [None, None]
    assert "seed=2" in rows[1]["overrides"]
    assert "a/b/2" in done.out
    assert (here / "s/a/b/2/manifest.json").is_file()
    assert not (here / "s" / ".jobs").exists()


def test_a_folder_that_is_used_again_shows_only_what_ran_now(here: Path, cache: Path) -> None:
    """The first sweep's second job failed; the other sweep has one job, which does not."""
    broken = swept(here, cache, "train_repopt.checkpoint=null,nowhere.pt", "hydra.sweep.dir=s")
    assert broken.code == 4, broken.err
    assert not (here / "s").exists()
    with exclusive_lock_or_busy(here / "s" / "1" / ".lock"):
        assert swept(here, cache, "seed=1,2", "hydra.sweep.dir=s").code == 75
    assert [row["failure"] is None for row in table(here / "s")] == [True, False]
    done = swept(here, cache, "seed=1", "hydra.sweep.dir=s")
    assert done.code == 0, done.err
    assert [row["job"] for row in table(here / "s")] == ["0"]
    assert "is running here" not in done.out


def test_the_comparison_of_an_earlier_sweep_does_not_outlive_the_next_ones_begin(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A sweep that is killed leaves none of its own."""
    former = tmp_path / "s" / "sweep.json"
    former.parent.mkdir()
    former.write_text("{}")
    monkeypatch.chdir(tmp_path)
    given = ["pipelines=ptq", "device=cpu", "seed=1,2", "hydra.sweep.dir=s"]
    monkeypatch.setattr(sys, "argv", ["quantpipe", "-m", *given])
    arguments = read_arguments()
    config, found = check_composition(arguments), []
    run_sweep(config, loader(arguments), given, lambda task: found.append(former.exists()))
    assert found == [False]


def test_a_sweep_in_a_folder_of_its_own_by_the_time(here: Path, cache: Path) -> None:
    for _ in range(2):
        assert swept(here, cache, "seed=1").code == 0
    folders = list((here / "outputs" / "sweeps").iterdir())
    assert len(folders) == 2
    assert all((folder / "0" / "manifest.json").is_file() for folder in folders)


def test_relative_paths_mean_the_folder_of_the_command(here: Path, cache: Path) -> None:
    """Wherever Hydra puts its jobs: one cache, and a run of its own finds it too."""
    change = ("hydra.job.chdir=true", "cache_dir=mine")
    done = fork(here, "-m", *TINY, "seed=1,2", "hydra.sweep.dir=s", *change)
    assert done.code == 0, done.err
    assert {path.parent.name for path in here.rglob("objects")} == {"mine"}
    assert [row["failure"] for row in table(here / "s")] == [None, None]
    alone = fork(here, *TINY, "seed=2", "run_dir=r", "hydra.run.dir=elsewhere", *change)
    assert alone.code == 0, alone.err
    assert "1 reused" in alone.err
    assert (here / "r" / "manifest.json").is_file()


@pytest.mark.parametrize(
    ("override", "told"),
    [
        ("hydra.sweep.subdir=same", "hydra.sweep.subdir: jobs 0 and 1 would both use "),
        ("run_dir=mine", "run_dir: the jobs of a sweep are put below hydra.sweep.dir; "),
        ("objective=map of pta", "objective: no variant 'pta' is compared; "),
    ],
)
def test_what_would_lose_results_is_refused_before_anything_is_written(
    here: Path, override: str, told: str
) -> None:
    done = fork(here, "-m", "pipelines=ptq", "seed=1,2", override)
    assert done.code == 2
    assert done.one_line().startswith(told)
    assert not list(here.iterdir())


def test_a_folder_that_another_sweep_uses_is_busy(here: Path, cache: Path) -> None:
    with exclusive_lock_or_busy(here / "s" / ".sweep.lock"):
        done = swept(here, cache, "seed=1", "hydra.sweep.dir=s")
    assert done.code == 75
    assert f"process {os.getpid()} on " in done.err
    assert done.err.rstrip().endswith("or give this sweep its own hydra.sweep.dir")
    assert not (here / "s" / "0").exists()


def test_a_job_that_fails_leaves_the_others_and_its_code(here: Path, cache: Path) -> None:
    """A run directory that is taken is one job's fault alone."""
    with exclusive_lock_or_busy(here / "s" / "0" / ".lock"):
        done = swept(here, cache, "seed=1,2", "hydra.sweep.dir=s")
    assert done.code == 75
    busy, whole = table(here / "s")
    assert "is running here" in busy["failure"]
    assert whole["failure"] is None
