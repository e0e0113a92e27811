"""The command on two ranks: under torchrun, and started by itself."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from tests.end_to_end.small_run import Command, read, small

pytestmark = pytest.mark.slow

OVERRIDES = small(
    "ptq",
    "trainer.devices=2",
    "train_repopt.epochs=4",
    "train_repopt.validate_every=4",
    "train_repopt.search.epochs=1",
    "run_dir=run",
)


def torchrun(folder: Path, *overrides: str) -> subprocess.CompletedProcess[str]:
    launcher = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2")
    return subprocess.run(
        [sys.executable, *launcher, "-m", "quantpipe", *overrides],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=600,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )


def test_ranks_of_a_launcher_and_of_the_command_make_the_same(tmp_path: Path) -> None:
    """One command that torchrun starts twice publishes once, and under the same keys."""
    launched = torchrun(tmp_path, *OVERRIDES)
    assert launched.returncode == 0, launched.stderr
    assert launched.stdout.count("mAP 50:95") == 1
    assert read(tmp_path / "run" / "status.json")["state"] == "done"
    alone = Command(tmp_path).run(*OVERRIDES)
    assert alone.returncode == 0, alone.stderr
    summary = read(tmp_path / "run" / "summary.json")
    assert all(stage["reused"] for stage in summary["stages"])
    assert {v["name"] for v in summary["variants"]} == {"fp32", "half", "ptq"}


def test_a_number_of_ranks_other_than_the_launchers_is_one_line(tmp_path: Path) -> None:
    finished = torchrun(tmp_path, *OVERRIDES, "trainer.devices=1")
    assert finished.returncode != 0
    told = [line for line in finished.stderr.splitlines() if line.startswith("quantpipe: ")]
    assert told == [
        "quantpipe: error: train_repopt.trainer.devices: is 1, but 2 processes were started; "
        "set trainer.devices=2"
    ]


def test_ranks_that_the_command_starts_train(tmp_path: Path) -> None:
    """Also what is calibrated; the steps after that know nothing of ranks."""
    finished = Command(tmp_path).run(*OVERRIDES, "pipeline.steps=[train_repopt,calibrate]")
    assert finished.returncode == 0, finished.stderr
    assert read(tmp_path / "run" / "status.json")["state"] == "done"
    assert set(read(tmp_path / "run" / "manifest.json")["steps"]) == {"train_repopt", "calibrate"}
