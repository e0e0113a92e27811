"""Hostile and damaged images, read by the real reader."""

from __future__ import annotations

from tests.faults.cases import run_cases
from tests.faults.image_cases import image_cases
from tests.faults.tally import Tally


def run(seed: int, share: float) -> Tally:
    """Reads a share of them."""
    return run_cases("images", [*image_cases()], seed, share)
