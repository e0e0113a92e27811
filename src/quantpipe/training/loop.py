"""The one training loop: scale search, RepOptimizer training and quantization-aware training.

They differ in arguments only: gradient masks, an additional loss, the numbers of the recipe. The
loop draws no random number and batches are a function of (epoch, index), so a training that was
killed and continued ends, on a CPU, with the same bits as one that was not.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple

import torch
from torch import Tensor, nn

from quantpipe.detector.input_specification import InputSpecification
from quantpipe.errors import Interrupted
from quantpipe.process_group import ProcessGroup
from quantpipe.progress import Progress
from quantpipe.training.epochs import Epochs, Observers
from quantpipe.training.memory_order import memory_order
from quantpipe.training.optimizer import matched_masks
from quantpipe.training.range_updates import RangeUpdates
from quantpipe.training.rates import rates
from quantpipe.training.recipe import Recipe
from quantpipe.training.session import Session
from quantpipe.training.step import Objective, Stepper
from quantpipe.training.step_batches import BatchSource, step_batches
from quantpipe.training.sync_batch_norm import synchronize_batch_norm

if TYPE_CHECKING:
    from quantpipe.data.loader import Batch


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
    objective: Objective,
    specification: InputSpecification,
    *,
    device: torch.device,
    processes: ProcessGroup,
    save_every: int,
    progress_folder: Path,
    observers: Observers,
) -> TrainResult:
    """Trains ``detector`` in place, from the newest state in ``progress_folder`` if there is one.

    Args:
        detector: A module with ``predict(images) -> RawPrediction``.
        batches: Where batches come from.
        recipe: The numbers.
        objective: What is minimized.
        specification: What the network takes.
        device: Where to train.
        processes: The ranks that train together, each with its own part of every batch. Rank 0
            alone validates, saves and decides to stop; all end with the same weights.
        save_every: Optimizer steps from one saved state to the next.
        progress_folder: Owned by this training until its caller removes it.
        observers: Who validates, logs and shows it.

    Raises:
        Interrupted: The progress asked to stop; the state is saved.
        NumericalError: A loss, a weight or a score is NaN or infinite; no such state is saved.
        ArtifactError: The state in ``progress_folder`` is of another network or recipe.
    """
    length = recipe.steps_per_epoch(batches.num_batches)
    memory = memory_order(detector, channels_last=recipe.schedule.channels_last, device=device)
    detector.to(device, memory_format=memory).train()  # type: ignore[call-overload]
    session = _restored(detector, recipe, progress_folder, observers.progress, processes)
    stepper = _stepper(session, recipe, objective, specification, length, device, memory, processes)
    epochs = Epochs(stepper=stepper, length=length, observers=observers)
    with closing(step_batches(batches, recipe, session.counters.step)) as groups:
        _run(epochs, groups, save_every=save_every)
    return _result(epochs)


def _restored(
    detector: nn.Module, recipe: Recipe, folder: Path, progress: Progress, processes: ProcessGroup
) -> Session:
    """Returns the session of a network that lies where it is trained, as it was last saved."""
    if processes.size > 1:
        synchronize_batch_norm(detector, processes)
    session = Session(detector, recipe, folder, saves=processes.rank == 0)
    # Rank 0 cleans the folder first; it writes there only after a step that all have done.
    if processes.rank == 0:
        session.restore(progress)
    processes.broadcast(None)
    if processes.rank > 0:
        session.restore(progress)
    return session


def _stepper(
    session: Session,
    recipe: Recipe,
    objective: Objective,
    specification: InputSpecification,
    steps_per_epoch: int,
    device: torch.device,
    memory: torch.memory_format,
    processes: ProcessGroup,
) -> Stepper:
    """Returns what steps the session, with what follows from its network and recipe."""
    return Stepper(
        session=session,
        recipe=recipe,
        rates=rates(recipe, steps_per_epoch=steps_per_epoch),
        objective=objective,
        masks=matched_masks(session.network, objective.gradient_masks or {}),
        specification=specification,
        ranges=RangeUpdates(session.network),
        device=device,
        memory=memory,
        processes=processes,
    )


def _run(epochs: Epochs, groups: Iterator[tuple[int, list[Batch]]], *, save_every: int) -> None:
    """Steps to the end of the training, from wherever its session is."""
    progress, description = epochs.observers.progress, epochs.observers.description
    session, counters = epochs.stepper.session, epochs.stepper.session.counters
    # A training stopped after the last step of an epoch has yet to close it.
    epochs.close_if_over()
    if epochs.is_over:
        session.save()
        return
    started = time.monotonic()
    track = progress.track(groups, description, total=epochs.total_steps, done=counters.step)
    for epoch, group in track:
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


def _result(epochs: Epochs) -> TrainResult:
    session = epochs.stepper.session
    return TrainResult(
        weights=session.weights(),
        best_weights=session.best_weights(),
        best_epoch=session.counters.best_epoch,
        best_score=session.counters.best_score,
        stopped_early=epochs.is_over and session.counters.step < epochs.total_steps,
        history=session.counters.history,
    )
