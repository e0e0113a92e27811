"""Two ranks under torchrun, and under the variables that ``srun`` sets."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tests.distributed.along import Job, lead
from tests.training.conftest import RECIPE

from quantpipe.process_group import SingleProcess

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
SCRIPT = ("-m", "tests.distributed.launched")


def torchrun(folder: Path, fate: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    return subprocess.run(
        [*command, *SCRIPT, str(folder), fate],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )


def told(finished: subprocess.CompletedProcess[str]) -> str:
    """What the ranks said."""
    lines = [line for line in finished.stderr.splitlines() if "told: " in line]
    return "\n".join(lines)


def require_trained_as_alone(folder: Path, number: int) -> None:
    alone = lead(SingleProcess(), Job(RECIPE, folder / "alone"))
    for name, tensor in load_file(folder / f"{number}.safetensors").items():
        torch.testing.assert_close(tensor, alone.weights[name], rtol=1e-3, atol=1e-5)


def test_ranks_of_torchrun_share_one_piece_of_work_after_another(tmp_path: Path) -> None:
    finished = torchrun(tmp_path, "none")
    assert finished.returncode == 0, finished.stderr
    require_trained_as_alone(tmp_path, 0)
    require_trained_as_alone(tmp_path, 1)


@pytest.mark.parametrize(
    ("fate", "message"),
    [
        ("killed", "rank 1 of 2 ("),
        ("fails", "x.jpg: an image is damaged"),
    ],
)
def test_rank_0_says_which_rank_was_lost_and_why(fate: str, message: str, tmp_path: Path) -> None:
    finished = torchrun(tmp_path, fate)
    assert finished.returncode != 0
    assert message in told(finished), finished.stderr
    assert (tmp_path / "0.safetensors").exists()
    assert not (tmp_path / "1.safetensors").exists()


def test_ranks_of_a_slurm_step_meet_on_its_first_host(tmp_path: Path) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    step = {
        "SLURM_STEP_NUM_TASKS": "2",
        "SLURM_STEP_NUM_NODES": "1",
        "SLURM_NODEID": "0",
        "SLURM_STEP_NODELIST": "127.0.0.[1-2]",
        "SLURM_JOB_ID": "77",
        "MASTER_PORT": str(port),
        "OMP_NUM_THREADS": "1",
    }
    ranks = [
        subprocess.Popen(
            [sys.executable, *SCRIPT, str(tmp_path), "none"],
            cwd=ROOT,
            env=os.environ | step | {"SLURM_PROCID": str(number), "SLURM_LOCALID": str(number)},
            stderr=subprocess.PIPE,
            text=True,
        )
        for number in range(2)
    ]
    errors = [rank.communicate(timeout=120)[1] for rank in ranks]
    assert [rank.returncode for rank in ranks] == [0, 0], errors
    require_trained_as_alone(tmp_path, 1)
