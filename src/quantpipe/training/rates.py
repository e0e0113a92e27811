"""Learning rate and momentum as pure functions of the optimizer step."""

from __future__ import annotations

import math
from dataclasses import dataclass

from quantpipe.training.recipe import Recipe


@dataclass(frozen=True, kw_only=True)
class Rates:
    """A half cosine from ``lr`` to ``lr * final_lr_fraction`` with a linear warm-up in front.

    While warming up, weights start at a rate of 0, biases at ``warmup_bias_lr``, and momentum
    at ``warmup_momentum``; all reach the cosine and ``momentum`` at step ``warmup_steps``.
    """

    total_steps: int
    warmup_steps: int
    lr: float
    final_lr_fraction: float
    momentum: float
    warmup_momentum: float
    warmup_bias_lr: float

    def weight_lr(self, step: int) -> float:
        """The rate of everything but biases at ``step``, counted from 0."""
        return self._warmed(step, 0.0, self._cosine(step))

    def bias_lr(self, step: int) -> float:
        """The rate of biases at ``step``."""
        return self._warmed(step, self.warmup_bias_lr, self._cosine(step))

    def momentum_at(self, step: int) -> float:
        """The momentum at ``step``."""
        return self._warmed(step, self.warmup_momentum, self.momentum)

    def _cosine(self, step: int) -> float:
        fall = (1 - math.cos(math.pi * step / self.total_steps)) / 2
        return self.lr * (1 + (self.final_lr_fraction - 1) * fall)

    def _warmed(self, step: int, start: float, value: float) -> float:
        if step >= self.warmup_steps:
            return value
        return start + (value - start) * step / self.warmup_steps


def warmup_length(
    *, epochs: float, steps: int, steps_per_epoch: int, total_steps: int, max_fraction: float
) -> int:
    """Optimizer steps of warm-up: the longer of ``epochs`` and ``steps``, in bounds.

    Never more than ``max_fraction`` of the training, so a short one still trains at its full rate.
    """
    wanted = max(round(epochs * steps_per_epoch), steps)
    return min(wanted, int(total_steps * max_fraction))


def rates(recipe: Recipe, *, steps_per_epoch: int) -> Rates:
    """Returns the rates of a training of ``recipe.epochs`` times ``steps_per_epoch`` steps."""
    schedule, total_steps = recipe.schedule, recipe.epochs * steps_per_epoch
    return Rates(
        total_steps=total_steps,
        warmup_steps=warmup_length(
            epochs=schedule.warmup_epochs,
            steps=schedule.warmup_steps,
            steps_per_epoch=steps_per_epoch,
            total_steps=total_steps,
            max_fraction=schedule.warmup_max_fraction,
        ),
        lr=recipe.lr,
        final_lr_fraction=schedule.final_lr_fraction,
        momentum=schedule.momentum,
        warmup_momentum=schedule.warmup_momentum,
        warmup_bias_lr=schedule.warmup_bias_lr,
    )
