"""Hostile and broken annotations, read by the real readers and given on the command line."""

from __future__ import annotations

from tests.faults.cases import run_cases
from tests.faults.coco_cases import coco_cases
from tests.faults.commands import run_commands
from tests.faults.file_commands import data_commands
from tests.faults.fork_server import ForkServer
from tests.faults.tally import Tally
from tests.faults.yolo_cases import yolo_cases


def run(seed: int, share: float) -> Tally:
    """Reads a share of them."""
    tally = run_cases("annotations", [*coco_cases(), *yolo_cases()], seed, share)
    with ForkServer() as server:
        run_commands(server, tally, [*data_commands()], share)
    return tally
