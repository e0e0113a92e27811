"""What the trainings share: the loss, the optimizer's schedule, and the augmentation."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from quantpipe.errors import MachineError
from quantpipe.schema import Between, ExecutionOnly

if TYPE_CHECKING:
    from quantpipe.data.loader import Augmentation
    from quantpipe.detector.families.yolov6.loss import DetectionLoss
    from quantpipe.training.recipe import Recipe

Fraction = Annotated[float, Between(0, 1)]
Positive = Annotated[float, Between(0, open_low=True)]
NotNegative = Annotated[float, Between(0)]
Epochs = Annotated[int, Between(1, 10_000)]
BatchSize = Annotated[int, Between(1, 4096)]
Count = Annotated[int, Between(0)]
NumWorkers = Annotated[int | None, Between(0, 64), ExecutionOnly()]


Patience = Annotated[int | None, Between(1)]
Select = Literal["best", "last"]
LogFolder = Annotated[Path | None, ExecutionOnly()]


@dataclass(frozen=True, kw_only=True)
class LossSettings:
    """Task-aligned assignment, varifocal and IoU loss."""

    assignment_topk: Annotated[int, Between(1, 1000)]
    assignment_alpha: NotNegative
    assignment_beta: NotNegative
    focal_alpha: Fraction
    focal_gamma: NotNegative
    classification_weight: NotNegative
    box_weight: NotNegative


@dataclass(frozen=True, kw_only=True)
class ScheduleSettings:
    """SGD, its warm-up and cosine, and the moving average of the weights."""

    nominal_batch: BatchSize
    final_lr_fraction: Fraction
    momentum: Fraction
    nesterov: bool
    weight_decay: NotNegative
    warmup_epochs: NotNegative
    warmup_steps: Count
    warmup_max_fraction: Fraction
    warmup_momentum: Fraction
    warmup_bias_lr: NotNegative
    ema_decay: Fraction
    ema_ramp_steps: Positive
    no_augmentation_epochs: Count
    gradient_clip: NotNegative
    mixed_precision: bool
    channels_last: bool


@dataclass(frozen=True, kw_only=True)
class AugmentationSettings:
    """Probabilities (mosaic, flip) and strengths (the rest)."""

    mosaic: Fraction
    hsv_h: Fraction
    hsv_s: Fraction
    hsv_v: Fraction
    translate: Fraction
    scale: Fraction
    flip: Fraction


def recipe(
    *,
    epochs: int,
    batch_size: int,
    lr: float,
    box_loss: Literal["giou", "siou"],
    schedule: ScheduleSettings,
    loss: LossSettings,
) -> Recipe:
    """The numbers of one training as the training package takes them."""
    from quantpipe.training.recipe import Recipe

    return Recipe(
        epochs=epochs,
        batch_size=batch_size,
        lr=lr,
        box_loss=box_loss,
        **vars(schedule),
        **vars(loss),
    )


def detection_loss(loss: LossSettings, box_loss: Literal["giou", "siou"]) -> DetectionLoss:
    """The loss as the training package computes it."""
    from quantpipe.detector.families.yolov6.architecture import STRIDES
    from quantpipe.detector.families.yolov6.loss import DetectionLoss

    return DetectionLoss(
        strides=STRIDES,
        box_loss=box_loss,
        topk=loss.assignment_topk,
        alpha=loss.assignment_alpha,
        beta=loss.assignment_beta,
        focal_alpha=loss.focal_alpha,
        focal_gamma=loss.focal_gamma,
        classification_weight=loss.classification_weight,
        box_weight=loss.box_weight,
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


def log_folder(root: Path | None, *parts: str) -> Path | None:
    """Where a training of a step logs, if it does."""
    return None if root is None else root.joinpath(*parts)


def workers(num_workers: int | None, device: str) -> int:
    """Threads that prepare batches: as set, or none where the processor itself trains.

    There a third thread beside the two that compute costs more than it saves: every parallel
    region waits for the thread that was interrupted.
    """
    return (0 if device == "cpu" else 2) if num_workers is None else num_workers


def augmentation(settings: AugmentationSettings) -> Augmentation:
    """The augmentation as the data package takes it."""
    from quantpipe.data.loader import Augmentation

    return Augmentation(**vars(settings))
