"""Which campaigns there are, in the order of the table; each is imported only where it runs."""

from __future__ import annotations

import importlib
from dataclasses import dataclass

from tests.faults.tally import Tally


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
    Entry(name="crashes", module="tests.faults.store_crashes"),
    Entry(name="power", module="tests.faults.store_power"),
    Entry(name="order", module="tests.faults.store_order"),
    Entry(name="concurrency", module="tests.faults.store_concurrency"),
    Entry(name="damage", module="tests.faults.store_damage"),
    Entry(name="readers", module="tests.faults.store_readers"),
    Entry(name="conditions", module="tests.faults.store_conditions"),
    # The pipeline: the real stages, files and command.
    Entry(name="pipeline", module="tests.faults.pipeline"),
    Entry(name="ranks", module="tests.faults.ranks"),
    Entry(name="numbers", module="tests.faults.numbers"),
    # What comes from outside.
    Entry(name="images", module="tests.faults.images"),
    Entry(name="annotations", module="tests.faults.annotations"),
    Entry(name="configs", module="tests.faults.configs"),
    Entry(name="artifacts", module="tests.faults.artifacts"),
)

# Changes to the store that take a promise away: "survived" are those that a campaign notices.
MUTANTS = Entry(name="mutants", module="tests.faults.store_mutants")
