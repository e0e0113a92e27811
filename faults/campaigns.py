"""Which campaigns there are, in the order of the table; each is imported only where it runs."""

from __future__ import annotations

import importlib
from dataclasses import dataclass

from faults.tally import Tally


@dataclass(frozen=True, kw_only=True)
class Entry:
    """A campaign's name, and the module whose ``run(seed, share)`` it is."""

    name: str
    module: str

    def run(self, seed: int, share: float) -> Tally:
        """Runs it."""
        tally = importlib.import_module(self.module).run(seed, share)
        assert isinstance(tally, Tally)
        return tally


CAMPAIGNS = (
    # The store: steps that write text, no library but the store's own.
    Entry(name="crashes", module="faults.store_crashes"),
    Entry(name="power", module="faults.store_power"),
    Entry(name="order", module="faults.store_order"),
    Entry(name="concurrency", module="faults.store_concurrency"),
    Entry(name="damage", module="faults.store_damage"),
    Entry(name="readers", module="faults.store_readers"),
    Entry(name="conditions", module="faults.store_conditions"),
    # The pipeline: the real stages, files and command.
    Entry(name="pipeline", module="faults.pipeline"),
    Entry(name="ranks", module="faults.ranks"),
    Entry(name="numbers", module="faults.numbers"),
    Entry(name="sweeps", module="faults.sweeps"),
    # What comes from outside.
    Entry(name="images", module="faults.images"),
    Entry(name="annotations", module="faults.annotations"),
    Entry(name="configs", module="faults.configs"),
    Entry(name="artifacts", module="faults.artifacts"),
)

# Changes to the store that take a promise away: "survived" are those that a campaign notices.
MUTANTS = Entry(name="mutants", module="faults.store_mutants")
