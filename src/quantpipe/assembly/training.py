"""A training from its data to its result: alone, or on several ranks that share every batch."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from quantpipe.assembly.images import measure, predictor
from quantpipe.assembly.tensorboard import training_log
from quantpipe.core.stage import Context
from quantpipe.data.dataset import DetectionDataset
from quantpipe.data.loader import Augmentation, Batch, num_training_batches, training_batches
from quantpipe.distributed.ranks import run_together
from quantpipe.process_group import ProcessGroup
from quantpipe.progress import Progress, Silent
from quantpipe.settings.recipe import augmentation, log_folder, recipe, workers
from quantpipe.settings.trainer import TrainerSettings, with_precision
from quantpipe.settings.training import TrainingSettings
from quantpipe.training.distillation import distillation_loss
from quantpipe.training.log import NoLog, TrainingLog
from quantpipe.training.loop import BatchSource, TrainResult, train
from quantpipe.training.recipe import Recipe

_VALIDATION_BATCH = 16


@dataclass(frozen=True, kw_only=True)
class Distillation:
    """A frozen teacher, and the weights and temperatures of its lessons."""

    teacher: nn.Module
    settings: Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class TrainingJob:
    """All that a rank needs to train along; whatever it holds can be pickled.

    Attributes:
        detector: Trained in place on rank 0; the others get copies.
        recipe: The numbers of the training; ``batch_size`` counts the images of all ranks.
        dataset: What to train on.
        image_size: Pixels.
        augmentation: Of the training images.
        seed: Of the order and the augmentation.
        device: ``cpu`` or ``cuda``.
        num_workers: Threads of each rank that prepare batches.
        cache_mib: Memory of each rank for decoded images.
        masks: What multiplies the gradients, by parameter name.
        distillation: None trains on the labels alone.
        validate_every: Epochs.
        patience: Epochs, or None.
        save_every: Optimizer steps.
        progress_folder: For states to resume from.
        description: What to call the bar.
    """

    detector: nn.Module
    recipe: Recipe
    dataset: DetectionDataset
    image_size: int
    augmentation: Augmentation
    seed: int
    device: str
    num_workers: int
    cache_mib: int
    masks: Mapping[str, Tensor] | None
    distillation: Distillation | None
    validate_every: int
    patience: int | None
    save_every: int
    progress_folder: Path
    description: str


def fit(
    settings: TrainingSettings,
    detector: nn.Module,
    dataset: DetectionDataset,
    held_out: DetectionDataset | None,
    context: Context,
    *,
    image_size: int,
    box_loss: Literal["giou", "siou"],
    masks: Mapping[str, Tensor] | None = None,
    distillation: Distillation | None = None,
    part: Sequence[str] = (),
) -> TrainResult:
    """Trains on ``settings.trainer.devices`` processes; this one leads, validates, saves and shows.

    Args:
        settings: Of the step that trains.
        detector: Trained in place.
        dataset: What to train on.
        held_out: What to validate on; None validates nothing.
        context: Of the step.
        image_size: Pixels.
        box_loss: "giou" or "siou".
        masks: What multiplies the gradients, by parameter name.
        distillation: None trains on the labels alone.
        part: Names this training where a step does several.

    Raises:
        MachineError: A rank died or no longer answers; names it.
    """
    job = TrainingJob(
        detector=detector,
        recipe=recipe(
            epochs=settings.epochs,
            batch_size=settings.batch_size,
            lr=settings.lr,
            box_loss=box_loss,
            schedule=with_precision(settings.schedule, settings.trainer),
            loss=settings.loss,
        ),
        dataset=dataset,
        image_size=image_size,
        augmentation=augmentation(settings.augmentation),
        seed=context.seed,
        device=context.device,
        num_workers=workers(settings.num_workers, context.device),
        cache_mib=settings.cache_mib,
        masks=masks,
        distillation=distillation,
        validate_every=settings.validate_every,
        patience=settings.patience,
        save_every=settings.save_every,
        progress_folder=context.progress_folder.joinpath(*part),
        description=": ".join((context.step, *part)),
    )
    folder = log_folder(settings.tensorboard, context.step, *part)
    return _fit(job, held_out, context, folder, settings.trainer)


def _fit(
    job: TrainingJob,
    held_out: DetectionDataset | None,
    context: Context,
    tensorboard: Path | None,
    trainer: TrainerSettings,
) -> TrainResult:
    validate = None if held_out is None else validator(held_out, job.image_size, context)
    with training_log(tensorboard, held_out, job.image_size, context) as log:
        return run_together(
            lambda processes: _train(job, processes, validate, log, context.progress),
            _train_along,
            _Following(job=job, validates=validate is not None),
            size=trainer.devices,
            device=job.device,
            timeout_seconds=trainer.timeout_s,
        )


@dataclass(frozen=True, kw_only=True)
class _Following:
    """What the other ranks are told: the job, and whether rank 0 will share scores of it."""

    job: TrainingJob
    validates: bool


def _train_along(processes: ProcessGroup, following: _Following) -> None:
    """What the other ranks do: rank 0 validates, saves and shows for them."""

    def validate(network: nn.Module) -> float:  # noqa: ARG001
        raise AssertionError("rank 0 validates")

    _train(following.job, processes, validate if following.validates else None, NoLog(), Silent())


def _train(
    job: TrainingJob,
    processes: ProcessGroup,
    validate: Callable[[nn.Module], float] | None,
    log: TrainingLog,
    progress: Progress,
) -> TrainResult:
    source, num_batches = batch_source(
        job.dataset,
        image_size=job.image_size,
        batch_size=job.recipe.batch_size,
        seed=job.seed,
        augmentation=job.augmentation,
        num_workers=job.num_workers,
        cache_mib=job.cache_mib,
        rank=processes.rank,
        num_ranks=processes.size,
    )
    device = (
        torch.device("cuda", processes.local_rank) if job.device == "cuda" else torch.device("cpu")
    )
    lessons = job.distillation
    return train(
        job.detector,
        source,
        job.recipe,
        num_batches=num_batches,
        device=device,
        gradient_masks=job.masks,
        extra_loss=None
        if lessons is None
        else distillation_loss(
            lessons.teacher.to(device), epochs=job.recipe.epochs, **lessons.settings
        ),
        validate=validate,
        validate_every=job.validate_every,
        patience=job.patience,
        save_every=job.save_every,
        log=log,
        progress_folder=job.progress_folder,
        progress=progress,
        description=job.description,
        processes=processes,
    )


def batch_source(
    dataset: DetectionDataset,
    *,
    image_size: int,
    batch_size: int,
    seed: int,
    augmentation: Augmentation,
    num_workers: int,
    cache_mib: int,
    rank: int = 0,
    num_ranks: int = 1,
) -> tuple[BatchSource, int]:
    """One rank's part of the batches, as a function of the epoch, and how many an epoch has."""
    # Without mosaic the batches of the last epochs look like what the network will meet.
    plain = Augmentation(
        mosaic=0.0,
        hsv_h=0.0,
        hsv_s=0.0,
        hsv_v=0.0,
        translate=0.0,
        scale=0.0,
        flip=augmentation.flip,
    )

    def batches(*, epoch: int, start_batch: int, strong: bool) -> Iterator[Batch]:
        return training_batches(
            dataset,
            image_size=image_size,
            batch_size=batch_size,
            seed=seed,
            epoch=epoch,
            augmentation=augmentation if strong else plain,
            num_workers=num_workers,
            start_batch=start_batch,
            cache_bytes=cache_mib << 20,
            rank=rank,
            num_ranks=num_ranks,
        )

    return batches, num_training_batches(dataset, batch_size)


def validator(
    dataset: DetectionDataset, image_size: int, context: Context
) -> Callable[[nn.Module], float]:
    """Scores a network by its COCO mAP 50:95 on every image of ``dataset``."""

    def validate(network: nn.Module) -> float:
        result, _ = measure(
            predictor(network, context.device),
            dataset,
            image_size=image_size,
            batch_size=_VALIDATION_BATCH,
            progress=Silent(),
            description="validate",
        )
        return result.map

    return validate
