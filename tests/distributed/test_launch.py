from __future__ import annotations

import pytest

from quantpipe.distributed.launch import Rank, first_host, launched, require_size
from quantpipe.errors import ConfigurationError, MachineError

TORCHRUN = {
    "TORCHELASTIC_RUN_ID": "none",
    "RANK": "5",
    "LOCAL_RANK": "1",
    "GROUP_RANK": "1",
    "WORLD_SIZE": "8",
    "LOCAL_WORLD_SIZE": "4",
}
SLURM = {
    "SLURM_PROCID": "5",
    "SLURM_LOCALID": "1",
    "SLURM_NODEID": "1",
    "SLURM_STEP_NUM_TASKS": "8",
    "SLURM_STEP_NUM_NODES": "2",
}
FIFTH = Rank(number=5, local=1, host=1, size=8, num_hosts=2)


@pytest.mark.parametrize("environment", [TORCHRUN, SLURM], ids=["torchrun", "srun"])
def test_a_launchers_rank_is_read_from_the_environment(environment: dict[str, str]) -> None:
    assert launched(environment) == FIFTH


@pytest.mark.parametrize(
    "environment",
    [
        {},
        {"WORLD_SIZE": "8", "RANK": "3"},
        {"SLURM_NTASKS": "8", "SLURM_PROCID": "0"},
        TORCHRUN | {"WORLD_SIZE": "1", "LOCAL_WORLD_SIZE": "1"},
    ],
    ids=["nothing", "foreign variables", "a batch script outside srun", "one process"],
)
def test_a_process_is_alone(environment: dict[str, str]) -> None:
    assert launched(environment) is None


@pytest.mark.parametrize(
    "environment",
    [
        TORCHRUN | {"RANK": "five"},
        {k: v for k, v in TORCHRUN.items() if k != "LOCAL_RANK"},
        SLURM | {"SLURM_STEP_NUM_NODES": "0"},
    ],
)
def test_a_description_that_makes_no_sense_is_refused(environment: dict[str, str]) -> None:
    with pytest.raises(MachineError, match="does not say which rank"):
        launched(environment)


def test_hosts_with_different_numbers_of_ranks_are_refused() -> None:
    with pytest.raises(MachineError, match="8 processes do not spread evenly over 3 hosts"):
        launched(SLURM | {"SLURM_STEP_NUM_NODES": "3"})


def test_the_setting_is_the_launchers_number(monkeypatch: pytest.MonkeyPatch) -> None:
    require_size(3)
    for name, value in TORCHRUN.items():
        monkeypatch.setenv(name, value)
    require_size(8)
    with pytest.raises(ConfigurationError, match=r"trainer.devices: is 1, but 8 .*devices=8"):
        require_size(1)


@pytest.mark.parametrize(
    ("hosts", "first"),
    [
        ("node", "node"),
        ("node-7,node-9", "node-7"),
        ("gpu[08-11,14],cpu3", "gpu08"),
        ("rack[2]-gpu[1,3-4]", "rack2-gpu1"),
        ("a3,gpu[1-2]", "a3"),
        ("127.0.0.[1-2]", "127.0.0.1"),
    ],
)
def test_the_first_host_of_a_slurm_step_is_found(hosts: str, first: str) -> None:
    """The forms of Slurm's own documentation (scontrol, "show hostnames")."""
    assert first_host(hosts) == first
