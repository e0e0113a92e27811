"""One small run that the tests of this folder share."""

from __future__ import annotations

import subprocess

import pytest
from tests.end_to_end.small_run import Command, small


@pytest.fixture(scope="session")
def command(tmp_path_factory: pytest.TempPathFactory) -> Command:
    """One folder, and so one cache, for all tests: what one trained the others reuse."""
    return Command(folder=tmp_path_factory.mktemp("work"))


@pytest.fixture(scope="session")
def finished(command: Command) -> subprocess.CompletedProcess[str]:
    """The whole default pipeline, run once."""
    return command.run(*small("repopt_qat"))
