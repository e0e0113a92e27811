"""The settings that every stage that trains has: how, on what, and what of it to keep."""

from __future__ import annotations

from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Literal

from quantpipe.data.augmentation import Augmentation
from quantpipe.distributed.launch import require_size
from quantpipe.errors import ConfigurationError, MachineError
from quantpipe.schema import Between, ExecutionOnly, Positive
from quantpipe.settings.data import BatchSize, DataSettings, check_data
from quantpipe.settings.model import LossSettings
from quantpipe.training.execution import Execution
from quantpipe.training.recipe import Recipe
from quantpipe.training.schedule import Schedule

Epochs = Annotated[int, Between(1, 10_000)]


@dataclass(frozen=True, kw_only=True)
class TrainerSettings:
    """The ``trainer`` group: on how many processes, and in which precision, networks are trained.

    ``precision`` is that of the network's forward and backward pass.
    """

    devices: Annotated[int, Between(1, 64)]
    precision: Literal["32-true", "bf16-mixed"] | None
    timeout_s: Annotated[float, Between(1), ExecutionOnly()]


@dataclass(frozen=True, kw_only=True)
class TrainingSettings:
    """What the configuration of a stage that trains begins with."""

    trainer: TrainerSettings
    data: DataSettings
    epochs: Epochs
    batch_size: BatchSize
    lr: Positive
    schedule: Schedule
    loss: LossSettings
    augmentation: Augmentation
    validate_every: Annotated[int, Between(1)]
    patience: Annotated[int | None, Between(1)]
    select: Literal["best", "last"]
    tensorboard: Annotated[Path | None, ExecutionOnly()]
    save_every: Annotated[int, Between(1), ExecutionOnly()]
    num_workers: Annotated[int | None, Between(0, 64), ExecutionOnly()]
    cache_mib: Annotated[int, Between(0), ExecutionOnly()]


def check_training(settings: TrainingSettings) -> None:
    """Finds missing data, a missing library, and a batch that cannot be shared evenly."""
    check_data(settings.data)
    check_log(settings.tensorboard)
    check_ranks(settings.batch_size, settings.trainer)


def check_ranks(batch_size: int, trainer: TrainerSettings) -> None:
    """Refuses a batch that cannot be shared evenly, and ranks other than a launcher's.

    Raises:
        ConfigurationError: Names both numbers.
    """
    require_size(trainer.devices)
    if batch_size % trainer.devices:
        raise ConfigurationError(
            f"{batch_size} images cannot be shared by {trainer.devices} devices",
            path="batch_size",
            hint=f"take {-(-batch_size // trainer.devices) * trainer.devices}",
        )


def check_log(folder: Path | None) -> None:
    """Refuses a log that needs a library that is not installed.

    Raises:
        MachineError: Names the line that installs it.
    """
    if folder is not None and find_spec("tensorboard") is None:
        raise MachineError(
            "TensorBoard is not installed",
            path=f"tensorboard={folder}",
            hint="pip install 'quantpipe[tensorboard]', or set tensorboard=null",
        )


def recipe(settings: TrainingSettings) -> Recipe:
    """The numbers of a training, in the trainer's precision or, where it names none, their own."""
    schedule, precision = settings.schedule, settings.trainer.precision
    if precision is not None:
        schedule = replace(schedule, mixed_precision=precision == "bf16-mixed")
    return Recipe(
        epochs=settings.epochs,
        batch_size=settings.batch_size,
        lr=settings.lr,
        schedule=schedule,
        validate_every=settings.validate_every,
        patience=settings.patience,
    )


def execution(settings: TrainingSettings, device: str) -> Execution:
    """On how many processes to train, and what each may take.

    Where no number of threads is set, none prepare batches where the processor itself trains. There
    a third thread beside the two that compute costs more than it saves: every parallel region waits
    for the thread that was interrupted.
    """
    num_workers = 0 if device == "cpu" else 2
    return Execution(
        num_processes=settings.trainer.devices,
        timeout_seconds=settings.trainer.timeout_s,
        num_workers=num_workers if settings.num_workers is None else settings.num_workers,
        cache_mib=settings.cache_mib,
        save_every=settings.save_every,
    )


def log_folder(settings: TrainingSettings, *parts: str) -> Path | None:
    """Where a training of a step logs, if it does."""
    return None if settings.tensorboard is None else settings.tensorboard.joinpath(*parts)
