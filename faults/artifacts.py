"""Hostile and damaged artifacts: read by the real readers, and given on the command line."""

from __future__ import annotations

import tempfile
from pathlib import Path

from faults.cases import run_cases
from faults.commands import run_commands
from faults.document_cases import document_cases
from faults.file_commands import artifact_commands
from faults.fork_server import ForkServer
from faults.model_cases import model_cases
from faults.pickle_cases import pickle_cases
from faults.tally import Tally


def run(seed: int, share: float) -> Tally:
    """Reads a share of them."""
    with tempfile.TemporaryDirectory(prefix="faults-") as temporary:
        cases = [*pickle_cases(), *document_cases(Path(temporary)), *model_cases()]
    tally = run_cases("artifacts", cases, seed, share)
    with ForkServer() as server:
        run_commands(server, tally, [*artifact_commands()], share)
    return tally
