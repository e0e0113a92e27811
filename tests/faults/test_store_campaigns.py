"""A seeded share of every campaign on the store; ``python -m faults`` runs all of them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from faults.tally import Campaign, Tally

from faults import (
    store_concurrency,
    store_conditions,
    store_crashes,
    store_damage,
    store_mutants,
    store_order,
    store_power,
    store_readers,
)

_SHARES: dict[str, tuple[Campaign, float, int]] = {
    "crashes": (store_crashes.run, 0.05, 100),
    "power": (store_power.run, 0.1, 80),
    "order": (store_order.run, 1.0, 8),
    "concurrency": (store_concurrency.run, 0.1, 10),
    "conditions": (store_conditions.run, 0.2, 10),
    "readers": (store_readers.run, 0.1, 30),
}


def assert_survived(tally: Tally, at_least: int) -> None:
    assert tally.failures == []
    assert tally.survived == tally.tried >= at_least
    lost = tally.wrong_results, tally.bytes_lost, tally.stages_redone, tally.steps_lost
    assert (*lost, tally.duplicates, tally.temporary_files) == (0,) * 6


@pytest.mark.slow
@pytest.mark.parametrize("name", _SHARES)
def test_a_share_of_the_faults_is_survived(name: str) -> None:
    campaign, share, at_least = _SHARES[name]
    assert_survived(campaign(11, share), at_least)


@pytest.mark.slow
def test_damage_of_every_kind_of_file_is_noticed() -> None:
    """One of each is removed: the first thing that is done to a file."""
    assert_survived(store_damage.run(11, 0.02), 40)


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    [
        *("no fsync", "manifest first", "no lock", "unlink before rename"),
        *("no directory sync", "rename before fsync"),
    ],
)
def test_a_store_without_a_precaution_is_noticed(name: str) -> None:
    """In a process of its own, as the change is made in that process's children alone."""
    (mutant,) = (mutant for mutant in store_mutants.MUTANTS if mutant.name == name)
    assert store_mutants.caught(mutant, seed=11) is None


@pytest.mark.slow
def test_the_command_prints_a_table_and_counts_for_machines(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "faults", "--share", "0.01", "--only", "order", "power"]
    done = subprocess.run(
        [*command, "--markdown", "--json", str(tmp_path / "counts.json")],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "| power " in done.stdout
    assert '"campaign": "order"' in (tmp_path / "counts.json").read_text()
