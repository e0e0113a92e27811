"""The settings that every stage that trains has: how, on what, and what of it to keep."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from quantpipe.schema import Between, ExecutionOnly
from quantpipe.settings.data import DataSettings, check_data
from quantpipe.settings.recipe import (
    AugmentationSettings,
    BatchSize,
    Epochs,
    LogFolder,
    LossSettings,
    NumWorkers,
    Patience,
    Positive,
    ScheduleSettings,
    Select,
    check_log,
)
from quantpipe.settings.trainer import TrainerSettings, check_ranks


@dataclass(frozen=True, kw_only=True)
class TrainingSettings:
    """What the configuration of a stage that trains begins with."""

    trainer: TrainerSettings
    data: DataSettings
    epochs: Epochs
    batch_size: BatchSize
    lr: Positive
    schedule: ScheduleSettings
    loss: LossSettings
    augmentation: AugmentationSettings
    validate_every: Annotated[int, Between(1)]
    patience: Patience
    select: Select
    tensorboard: LogFolder
    save_every: Annotated[int, Between(1), ExecutionOnly()]
    num_workers: NumWorkers
    cache_mib: Annotated[int, Between(0), ExecutionOnly()]


def check_training(settings: TrainingSettings) -> None:
    """Finds missing data, a missing library, and a batch that cannot be shared evenly."""
    check_data(settings.data)
    check_log(settings.tensorboard)
    check_ranks(settings.batch_size, settings.trainer)
