"""Launchers and a sweeper that are installed by themselves; each test is skipped without its own.

docs/sweeps.md says how each is installed.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf
from tests.cli.test_sweep import TINY, table

pytestmark = [pytest.mark.slow, pytest.mark.plugins]

FULL = (
    *(text for text in TINY if not text.startswith("pipeline.steps")),
    "~variants.half",
    "calibrate.num_images=4",
    "export.simplify=false",
    "evaluate.num_runs=1",
    "evaluate.num_warmup=0",
    "evaluate.parity.num_images=2",
    "evaluate.num_examples=1",
    "engine.batch_sizes=[1]",
)
LAUNCHERS = {
    "joblib": ("hydra/launcher=joblib", "hydra.launcher.n_jobs=2"),
    "submitit": ("hydra/launcher=submitit_local", "hydra.launcher.timeout_min=5"),
    "ray": ("hydra/launcher=ray", "+hydra.launcher.ray.init.num_cpus=2"),
}
LONGEST = 120.0


def needs(plugin: str) -> None:
    if find_spec("hydra_plugins") is None or find_spec(f"hydra_plugins.hydra_{plugin}") is None:
        pytest.skip(f"hydra-{plugin.replace('_', '-')} is not installed")


def start(folder: Path, *overrides: str) -> subprocess.Popen[str]:
    """The command as the leader of a process group, which Ctrl-C would signal as a whole."""
    return subprocess.Popen(
        [sys.executable, "-m", "quantpipe", "-m", *overrides, "hydra.sweep.dir=s"],
        cwd=folder,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def run(folder: Path, *overrides: str) -> tuple[int, str, str]:
    process = start(folder, *overrides)
    out, err = process.communicate(timeout=2 * LONGEST)
    return process.returncode, out, err


@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_a_launchers_processes_make_one_sweep(tmp_path: Path, launcher: str) -> None:
    needs(f"{launcher}_launcher")
    change = ("hydra.job.chdir=true", "cache_dir=cache", "hydra.sweep.subdir=a/${seed}")
    code, out, err = run(tmp_path, *TINY, *LAUNCHERS[launcher], "seed=1,2", *change)
    assert code == 0, err
    rows = table(tmp_path / "s")
    assert [(row["job"], row["failure"]) for row in rows] == [("a/1", None), ("a/2", None)]
    assert {path.parent for path in tmp_path.rglob("objects")} == {tmp_path / "cache"}
    assert "a/2" in out


@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_a_job_that_fails_elsewhere_is_told_with_its_code(tmp_path: Path, launcher: str) -> None:
    needs(f"{launcher}_launcher")
    (tmp_path / "s").mkdir()
    (tmp_path / "s" / "1").write_text("in the way of a folder")
    subdirs = "hydra.sweep.subdir=${seed}/x"
    code, _, _ = run(tmp_path, *TINY, *LAUNCHERS[launcher], "seed=2", subdirs, "cache_dir=/proc/x")
    assert code == 5
    (row,) = table(tmp_path / "s")
    assert row["failure"].startswith("/proc/x: ")


def test_a_study_is_told_the_objective_and_its_best_is_shown(tmp_path: Path) -> None:
    needs("optuna_sweeper")
    study = ("hydra/sweeper=optuna", "hydra.sweeper.n_trials=2", "hydra.sweeper.n_jobs=1")
    searched = ("calibrate.method=percentile", "calibrate.percentile=interval(99,100)")
    code, out, err = run(tmp_path, *FULL, *study, *searched, "objective=fps of ptq")
    assert code == 0, err
    assert "hydra.sweeper.direction=[maximize]" in err
    sweep = json.loads((tmp_path / "s" / "sweep.json").read_text())
    values = [row["objective"][0] for row in sweep["jobs"]]
    assert values == [_fps(row) for row in sweep["jobs"]]
    found: Any = OmegaConf.load(tmp_path / "s" / "optimization_results.yaml")
    assert found["best_value"] == max(values)
    (winner,) = (row for row in sweep["jobs"] if row["job"] == sweep["best"][0])
    percentile = found["best_params"]["calibrate.percentile"]
    assert f"calibrate.percentile={percentile}" in winner["overrides"]
    assert f"best: job {winner['job']}, fps of ptq " in out


def _fps(row: dict[str, Any]) -> float:
    (ptq,) = (variant for variant in row["variants"] if variant["name"] == "ptq")
    return float(ptq["fps"]["b1"])


def test_a_trial_without_a_value_ends_the_study_with_the_code_of_its_job(tmp_path: Path) -> None:
    needs("optuna_sweeper")
    study = ("hydra/sweeper=optuna", "hydra.sweeper.n_trials=3", "hydra.sweeper.n_jobs=1")
    objective = ("objective=[map of ptq,latency of ptq]", "cache_dir=/proc/x")
    code, _, err = run(tmp_path, *FULL, *study, "seed=range(1,9)", *objective)
    assert code == 5
    assert [line for line in err.splitlines() if line.startswith("quantpipe: ")] == [
        f"quantpipe: error: {row['failure']}" for row in table(tmp_path / "s")
    ]


@pytest.mark.parametrize("whole_group", [True, False])
def test_ctrl_c_under_joblib_ends_the_command_and_every_job(
    tmp_path: Path, whole_group: bool
) -> None:
    """As a terminal sends it, and to the command alone."""
    needs("joblib_launcher")
    long = ("train_repopt.epochs=10000", "train_repopt.validate_every=10000", "cache_dir=cache")
    process = start(tmp_path, *TINY, *LAUNCHERS["joblib"], "seed=1,2,3,4", *long)
    until(lambda: len(states(tmp_path)) == 2, process)
    if whole_group:
        os.killpg(process.pid, signal.SIGINT)
    else:
        process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=LONGEST)
    assert process.returncode == 130, err
    assert states(tmp_path) == {"0": "interrupted", "1": "interrupted"}
    failures = [row["failure"] for row in table(tmp_path / "s")]
    assert all("interrupted" in failure for failure in failures[:2])
    assert failures[2:] == ["not started", "not started"]
    assert "Traceback" not in err


def test_a_second_ctrl_c_ends_jobs_that_do_not_listen(tmp_path: Path) -> None:
    needs("joblib_launcher")
    long = ("train_repopt.epochs=10000", "train_repopt.validate_every=10000", "cache_dir=cache")
    process = start(tmp_path, *TINY, *LAUNCHERS["joblib"], "seed=1,2,3,4", *long)
    until(lambda: len(states(tmp_path)) == 2, process)
    for path in tmp_path.glob("s/*/status.json"):
        os.kill(json.loads(path.read_text())["pid"], signal.SIGSTOP)
    process.send_signal(signal.SIGINT)
    time.sleep(1)
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=LONGEST)
    assert process.returncode == 130
    assert states(tmp_path) == {"0": "interrupted", "1": "interrupted"}


def states(folder: Path) -> dict[str, str]:
    found = sorted(folder.glob("s/*/status.json"))
    return {path.parent.name: json.loads(path.read_text())["state"] for path in found}


def until(true: Callable[[], bool], process: subprocess.Popen[str]) -> None:
    end = time.monotonic() + LONGEST
    while not true() and time.monotonic() < end and process.poll() is None:
        time.sleep(0.05)
    assert process.poll() is None, process.communicate()
    assert true()
