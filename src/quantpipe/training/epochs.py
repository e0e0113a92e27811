"""The epochs of a training: what is recorded, validated and shown when one is over."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import nn

from quantpipe.errors import NumericalError
from quantpipe.progress import Progress
from quantpipe.training.log import TrainingLog
from quantpipe.training.step import LOSS_PARTS, Stepper


@dataclass(frozen=True, kw_only=True)
class Observers:
    """Who follows a training.

    Attributes:
        validate: Scores a network in evaluation mode; higher is better. None validates nothing.
        log: Told of every step and score.
        progress: Shows the loss and the score; asked to stop, the training saves first.
        description: What to call the bar.
    """

    validate: Callable[[nn.Module], float] | None
    log: TrainingLog
    progress: Progress
    description: str


@dataclass(frozen=True, kw_only=True)
class Epochs:
    """Counts a training's steps into epochs, and closes them: record, validation, status."""

    stepper: Stepper
    length: int
    observers: Observers

    @property
    def total_steps(self) -> int:
        """Optimizer steps in all epochs."""
        return self.stepper.rates.total_steps

    @property
    def is_over(self) -> bool:
        """Whether all steps are done, or the score has not risen for too long.

        It follows from what is saved with every state, so a resumed training stops where the
        unbroken one does.
        """
        counters = self.stepper.session.counters
        if counters.step >= self.total_steps:
            return True
        patience = self.stepper.recipe.patience
        if patience is None or counters.best_epoch is None:
            return False
        return len(counters.history) - counters.best_epoch >= patience

    def add(self, values: Mapping[str, float], seconds: float) -> None:
        """Takes the loss and its parts of a step that was done, and how long it took."""
        counters = self.stepper.session.counters
        for name, value in (*values.items(), ("seconds", seconds)):
            counters.sums[name] = counters.sums.get(name, 0.0) + value
        rates = self.stepper.rates
        done = counters.step - 1
        self.observers.log.step(
            counters.step,
            values,
            {"lr": rates.weight_lr(done), "momentum": rates.momentum_at(done)},
        )
        self._show(values["loss"])

    def close_if_over(self) -> None:
        """Records and validates the running epoch if all its steps are done."""
        counters = self.stepper.session.counters
        epoch = len(counters.history) + 1
        if counters.step < epoch * self.length:
            return
        means = {name: counters.sums[name] / self.length for name in LOSS_PARTS}
        record = {
            "epoch": epoch,
            **means,
            "lr": self.stepper.rates.weight_lr(counters.step - 1),
            "seconds": counters.sums["seconds"],
        }
        is_last = counters.step >= self.total_steps
        is_due = is_last or epoch % self.stepper.recipe.validate_every == 0
        validate = self.observers.validate
        if validate is not None and is_due:
            record["map"] = self._score(validate, epoch)
        counters.history.append(record)
        counters.sums = {}
        self._show(means["loss"])

    def _score(self, validate: Callable[[nn.Module], float], epoch: int) -> float:
        session = self.stepper.session
        processes = self.stepper.processes
        session.evaluated.eval()
        with torch.no_grad():
            score = float(
                processes.broadcast(self._validated(validate) if processes.rank == 0 else None)
            )
            self.observers.log.validated(session.counters.step, score, session.evaluated)
        session.network.train()
        session.consider(score, epoch)
        return score

    def _validated(self, validate: Callable[[nn.Module], float]) -> float:
        session = self.stepper.session
        try:
            return validate(session.evaluated)
        except NumericalError as error:
            raise session.diverged(error.cause) from error

    def _show(self, loss: float) -> None:
        scores = [r["map"] for r in self.stepper.session.counters.history if "map" in r]
        score = f"  mAP {scores[-1]:.4f}" if scores else ""
        self.observers.progress.status(f"loss {loss:.3f}{score}")
