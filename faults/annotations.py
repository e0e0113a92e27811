"""Hostile and broken annotations, read by the real readers and given on the command line."""

from __future__ import annotations

from faults.cases import run_cases
from faults.coco_cases import coco_cases
from faults.commands import run_commands
from faults.file_commands import data_commands
from faults.fork_server import ForkServer
from faults.layout_cases import layout_cases
from faults.tally import Tally
from faults.yolo_cases import yolo_cases


def run(seed: int, share: float) -> Tally:
    """Reads a share of them."""
    tally = run_cases("annotations", [*coco_cases(), *yolo_cases(), *layout_cases()], seed, share)
    with ForkServer() as server:
        run_commands(server, tally, [*data_commands()], share)
    return tally
