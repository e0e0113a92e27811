"""The one training loop: scale search, RepOptimizer training and quantization-aware training.

They differ in arguments only: gradient masks, an additional loss, the numbers of the recipe. The
loop draws no random number and batches are a function of (epoch, index), so a training that was
killed and continued ends, on a CPU, with the same bits as one that was not.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple, Protocol

import torch
from torch import Tensor, nn

from quantpipe.detector.families.implementation import DetectionLoss
from quantpipe.detector.input_specification import InputSpecification
from quantpipe.errors import Interrupted, NumericalError
from quantpipe.process_group import ProcessGroup
from quantpipe.progress import Progress
from quantpipe.training.log import TrainingLog
from quantpipe.training.memory_order import memory_order
from quantpipe.training.optimizer import matched_masks
from quantpipe.training.range_updates import RangeUpdates
from quantpipe.training.rates import rates
from quantpipe.training.recipe import Recipe
from quantpipe.training.session import Session
from quantpipe.training.step import LOSS_PARTS, ExtraLoss, Stepper
from quantpipe.training.sync_batch_norm import synchronize_batch_norm

if TYPE_CHECKING:
    from quantpipe.data.loader import Batch


class BatchSource(Protocol):
    """Batches of an epoch: the same ones whenever they are asked for."""

    def __call__(self, *, epoch: int, start_batch: int, strong: bool) -> Iterator[Batch]:
        """Yields the batches of ``epoch`` (from 0), from number ``start_batch`` on.

        ``strong`` asks for strong augmentation, which the last epochs of a recipe go without.
        """
        ...


class Selected(NamedTuple):
    """Weights, their epoch (from 1), and its score where it was validated."""

    weights: dict[str, Tensor]
    epoch: int
    score: float | None


@dataclass(frozen=True, kw_only=True)
class TrainResult:
    """What a training ends with.

    Weights are state dicts on the CPU: the moving average where the recipe has one.

    Attributes:
        weights: After the last epoch.
        best_weights: Of the epoch with the best score; the last where none was validated.
        best_epoch: That epoch, from 1.
        best_score: Its score.
        stopped_early: Whether the score had not risen for ``patience`` epochs.
        history: One record an epoch: epoch, loss, cls, iou, extra, lr, seconds; map if validated.
    """

    weights: dict[str, Tensor]
    best_weights: dict[str, Tensor]
    best_epoch: int | None
    best_score: float | None
    stopped_early: bool
    history: list[dict[str, float]]

    def selected(self, which: Literal["best", "last"]) -> Selected:
        """The weights to publish: of the best validated epoch, or of the last."""
        if which == "best":
            epoch = self.best_epoch or len(self.history)
            return Selected(self.best_weights, epoch, self.best_score)
        return Selected(self.weights, len(self.history), self.history[-1].get("map"))


def train(
    detector: nn.Module,
    batches: BatchSource,
    recipe: Recipe,
    loss: DetectionLoss,
    specification: InputSpecification,
    *,
    num_batches: int,
    device: torch.device,
    gradient_masks: Mapping[str, Tensor] | None,
    extra_loss: ExtraLoss | None,
    validate: Callable[[nn.Module], float] | None,
    save_every: int,
    log: TrainingLog,
    progress_folder: Path,
    progress: Progress,
    description: str,
    processes: ProcessGroup,
) -> TrainResult:
    """Trains ``detector`` in place, from the newest state in ``progress_folder`` if there is one.

    Args:
        detector: A module with ``predict(images) -> RawPrediction``.
        batches: Where batches come from.
        recipe: The numbers.
        loss: Of predictions against labels.
        specification: What the network takes.
        num_batches: Batches in an epoch.
        device: Where to train.
        gradient_masks: What multiplies the gradients, by parameter name.
        extra_loss: Added to the detection loss; runs under the recipe's autocast.
        validate: Scores a network in evaluation mode; higher is better.
        save_every: Optimizer steps from one saved state to the next.
        log: Told of every step and score.
        progress_folder: Owned by this training until its caller removes it.
        progress: Shows the loss and the score; asked to stop, the loop saves first.
        description: What to call the bar.
        processes: The ranks that train together, each with its own part of every batch. Rank 0
            alone validates, saves and decides to stop; all end with the same weights.

    Raises:
        Interrupted: ``progress.should_stop()``; the state is saved.
        NumericalError: A loss, a weight or a score is NaN or infinite; no such state is saved.
        ArtifactError: The state in ``progress_folder`` is of another network or recipe.
    """
    assert num_batches > 0
    memory = memory_order(detector, channels_last=recipe.schedule.channels_last, device=device)
    detector.to(device, memory_format=memory).train()  # type: ignore[call-overload]
    if processes.size > 1:
        synchronize_batch_norm(detector, processes)
    session = Session(detector, recipe, progress_folder, saves=processes.rank == 0)
    # Rank 0 cleans the folder first; it writes there only after a step that all have done.
    if processes.rank == 0:
        session.restore(progress)
    processes.broadcast(None)
    if processes.rank > 0:
        session.restore(progress)
    steps_per_epoch = math.ceil(num_batches / recipe.accumulate)
    stepper = Stepper(
        session=session,
        recipe=recipe,
        rates=rates(recipe, steps_per_epoch=steps_per_epoch),
        loss=loss,
        specification=specification,
        masks=matched_masks(detector, gradient_masks or {}),
        extra_loss=extra_loss,
        ranges=RangeUpdates(detector),
        device=device,
        memory=memory,
        processes=processes,
    )
    epochs = _Epochs(
        stepper=stepper,
        length=steps_per_epoch,
        validate=validate,
        log=log,
        progress=progress,
    )
    with closing(_groups(batches, recipe, num_batches, session.counters.step)) as groups:
        _run(epochs, groups, save_every=save_every, description=description)
    return TrainResult(
        weights=session.weights(),
        best_weights=session.best_weights(),
        best_epoch=session.counters.best_epoch,
        best_score=session.counters.best_score,
        stopped_early=epochs.is_over and session.counters.step < epochs.total_steps,
        history=session.counters.history,
    )


@dataclass(frozen=True, kw_only=True)
class _Epochs:
    """Counts a training's steps into epochs, and closes them: record, validation, status."""

    stepper: Stepper
    length: int
    validate: Callable[[nn.Module], float] | None
    log: TrainingLog
    progress: Progress

    @property
    def total_steps(self) -> int:
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
        counters = self.stepper.session.counters
        for name, value in (*values.items(), ("seconds", seconds)):
            counters.sums[name] = counters.sums.get(name, 0.0) + value
        rates = self.stepper.rates
        done = counters.step - 1
        self.log.step(
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
        if self.validate is not None and is_due:
            record["map"] = self._score(self.validate, epoch)
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
            self.log.validated(session.counters.step, score, session.evaluated)
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
        self.progress.status(f"loss {loss:.3f}{score}")


def _run(
    epochs: _Epochs,
    groups: Iterator[tuple[int, list[Batch]]],
    *,
    save_every: int,
    description: str,
) -> None:
    """Steps to the end of the training, from wherever its session is."""
    progress, session = epochs.progress, epochs.stepper.session
    counters, total = session.counters, epochs.total_steps
    # A training stopped after the last step of an epoch has yet to close it.
    epochs.close_if_over()
    if epochs.is_over:
        session.save()
        return
    started = time.monotonic()
    for epoch, group in progress.track(groups, description, total=total, done=counters.step):
        values = epochs.stepper.step(group, epoch)
        now = time.monotonic()
        epochs.add(values, now - started)
        started = now
        stop = bool(epochs.stepper.processes.broadcast(progress.should_stop()))
        if not stop:
            epochs.close_if_over()
        if stop or epochs.is_over or counters.step % save_every == 0:
            session.save()
        if stop:
            raise Interrupted
        if epochs.is_over:
            return


def _groups(
    batches: BatchSource, recipe: Recipe, num_batches: int, first_step: int
) -> Generator[tuple[int, list[Batch]], None, None]:
    """Yields (epoch, batches of one optimizer step) from step ``first_step`` on.

    No step spans two epochs; where batches do not divide evenly, an epoch's last step has fewer.
    """
    steps_per_epoch = math.ceil(num_batches / recipe.accumulate)
    first_epoch, step_in_epoch = divmod(first_step, steps_per_epoch)
    first_batch = step_in_epoch * recipe.accumulate
    for epoch in range(first_epoch, recipe.epochs):
        strong = epoch < recipe.epochs - recipe.schedule.no_augmentation_epochs
        source = batches(epoch=epoch, start_batch=first_batch, strong=strong)
        for start in range(first_batch, num_batches, recipe.accumulate):
            wanted = min(recipe.accumulate, num_batches - start)
            group = list(islice(source, wanted))
            assert len(group) == wanted, f"epoch {epoch} has fewer than {num_batches} batches"
            yield epoch, group
        first_batch = 0
