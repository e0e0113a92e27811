"""What a training is told: every number of the recipe, none of it a default."""

from __future__ import annotations

import math
from dataclasses import dataclass

from quantpipe.training.schedule import Schedule


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """The numbers of one training.

    Attributes:
        epochs: Passes over the data.
        batch_size: Images in a batch, of all ranks together.
        lr: Learning rate after the warm-up.
        schedule: What the optimizer does with it.
        validate_every: Epochs from one validation to the next; the last is always validated.
        patience: Epochs after which a training whose score has not risen ends; None for never.
    """

    epochs: int
    batch_size: int
    lr: float
    schedule: Schedule
    validate_every: int
    patience: int | None

    @property
    def accumulate(self) -> int:
        """Batches to an optimizer step."""
        return max(1, round(self.schedule.nominal_batch / self.batch_size))

    def steps_per_epoch(self, num_batches: int) -> int:
        """Optimizer steps of an epoch of ``num_batches`` batches; the last may have fewer."""
        assert num_batches > 0
        return math.ceil(num_batches / self.accumulate)

    @property
    def scaled_weight_decay(self) -> float:
        """Weight decay for the images that a step really sees."""
        schedule = self.schedule
        return schedule.weight_decay * self.batch_size * self.accumulate / schedule.nominal_batch
