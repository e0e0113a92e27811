"""Hostile and damaged images, read by the real reader."""

from __future__ import annotations

from faults.cases import run_cases
from faults.image_cases import image_cases
from faults.tally import Tally


def run(seed: int, share: float) -> Tally:
    """Reads a share of them."""
    return run_cases("images", [*image_cases()], seed, share)
