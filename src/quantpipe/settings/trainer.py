"""The ``trainer`` group: on how many processes, and in which precision, networks are trained."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Annotated, Literal

from quantpipe.distributed.launch import require_size
from quantpipe.errors import ConfigurationError
from quantpipe.schema import Between, ExecutionOnly
from quantpipe.settings.recipe import ScheduleSettings


@dataclass(frozen=True, kw_only=True)
class TrainerSettings:
    """Ranks on this machine, and the precision of the network's forward and backward pass."""

    devices: Annotated[int, Between(1, 64)]
    precision: Literal["32-true", "bf16-mixed"] | None
    timeout_s: Annotated[float, Between(1), ExecutionOnly()]


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


def with_precision(schedule: ScheduleSettings, trainer: TrainerSettings) -> ScheduleSettings:
    """The schedule in the trainer's precision, or in its own where the trainer names none."""
    if trainer.precision is None:
        return schedule
    return replace(schedule, mixed_precision=trainer.precision == "bf16-mixed")
