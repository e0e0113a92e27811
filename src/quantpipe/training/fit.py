"""A training from its data to its result: alone, or on several ranks that share every batch."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from quantpipe.data.augmentation import Augmentation
from quantpipe.data.dataset import DetectionDataset
from quantpipe.data.loader import Batch, num_training_batches, training_batches
from quantpipe.detector.families.implementation import DetectionLoss
from quantpipe.detector.input_specification import InputSpecification
from quantpipe.distributed.ranks import run_together
from quantpipe.errors import ConfigurationError
from quantpipe.evaluation.dataset import measure
from quantpipe.evaluation.network import predictor
from quantpipe.process_group import ProcessGroup
from quantpipe.progress import Progress, Silent
from quantpipe.training.distillation import distillation_loss
from quantpipe.training.distillation_numbers import DistillationNumbers
from quantpipe.training.epochs import Observers
from quantpipe.training.execution import Execution
from quantpipe.training.log import NoLog
from quantpipe.training.loop import TrainResult, train
from quantpipe.training.recipe import Recipe
from quantpipe.training.step import ExtraLoss, Objective
from quantpipe.training.tensorboard import training_log

_VALIDATION_BATCH = 16


@dataclass(frozen=True, kw_only=True)
class Distillation:
    """A frozen teacher, and the weights and temperatures of its lessons."""

    teacher: nn.Module
    numbers: DistillationNumbers


@dataclass(frozen=True, kw_only=True)
class TrainingJob:
    """All that a rank needs to train along; whatever it holds can be pickled.

    Attributes:
        detector: Trained in place on rank 0; the others get copies.
        recipe: The numbers of the training.
        loss: Of predictions against labels.
        dataset: What to train on.
        specification: What the network takes.
        augmentation: Of the training images.
        seed: Of the order and the augmentation.
        device: ``cpu`` or ``cuda``.
        execution: On how many processes, and what each may take.
        masks: What multiplies the gradients, by parameter name.
        distillation: None trains on the labels alone.
        progress_folder: For states to resume from.
        description: What to call the bar.
    """

    detector: nn.Module
    recipe: Recipe
    loss: DetectionLoss
    dataset: DetectionDataset
    specification: InputSpecification
    augmentation: Augmentation
    seed: int
    device: str
    execution: Execution
    masks: Mapping[str, Tensor] | None
    distillation: Distillation | None
    progress_folder: Path
    description: str


def fit(
    job: TrainingJob,
    *,
    held_out: DetectionDataset | None,
    log_folder: Path | None,
    progress: Progress,
) -> TrainResult:
    """Trains on as many processes as the job says; this one leads, validates, saves and shows.

    Args:
        job: What to train, and on what.
        held_out: What to validate on; None validates nothing.
        log_folder: For TensorBoard; None logs nothing.
        progress: Shows the training.

    Raises:
        ConfigurationError: There are fewer images than processes.
        MachineError: A rank died or no longer answers; names it.
    """
    specification, device = job.specification, job.device
    _require_images(job)
    validate = None if held_out is None else validator(held_out, specification, device)
    with training_log(log_folder, held_out, specification, device=device) as log:
        observers = Observers(
            validate=validate, log=log, progress=progress, description=job.description
        )
        return run_together(
            lambda processes: _train(job, processes, observers),
            _train_along,
            _Following(job=job, validates=validate is not None),
            size=job.execution.num_processes,
            device=device,
            timeout_seconds=job.execution.timeout_seconds,
        )


def _require_images(job: TrainingJob) -> None:
    num_images, num_processes = len(job.dataset.images), job.execution.num_processes
    if num_images < num_processes:
        raise ConfigurationError(
            f"is {num_processes}, but there are {num_images} images to train on, and each process "
            "takes part of every batch",
            path="trainer.devices",
            hint=f"set trainer.devices={num_images} or fewer",
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

    job = following.job
    observers = Observers(
        validate=validate if following.validates else None,
        log=NoLog(),
        progress=Silent(),
        description=job.description,
    )
    _train(job, processes, observers)


def _train(job: TrainingJob, processes: ProcessGroup, observers: Observers) -> TrainResult:
    on_gpu = job.device == "cuda"
    device = torch.device("cuda", processes.local_rank) if on_gpu else torch.device("cpu")
    source = DatasetBatches(
        dataset=job.dataset,
        specification=job.specification,
        batch_size=job.recipe.batch_size,
        seed=job.seed,
        augmentation=job.augmentation,
        num_workers=job.execution.num_workers,
        cache_mib=job.execution.cache_mib,
        rank=processes.rank,
        num_ranks=processes.size,
    )
    return train(
        job.detector,
        source,
        job.recipe,
        Objective(loss=job.loss, extra_loss=_lessons(job, device), gradient_masks=job.masks),
        job.specification,
        device=device,
        processes=processes,
        save_every=job.execution.save_every,
        progress_folder=job.progress_folder,
        observers=observers,
    )


def _lessons(job: TrainingJob, device: torch.device) -> ExtraLoss | None:
    if job.distillation is None:
        return None
    teacher, numbers = job.distillation.teacher.to(device), job.distillation.numbers
    return distillation_loss(teacher, numbers, epochs=job.recipe.epochs)


@dataclass(frozen=True, kw_only=True)
class DatasetBatches:
    """One rank's part of the batches of a data set, as a function of the epoch.

    Attributes:
        dataset: What to train on.
        specification: What the network takes.
        batch_size: Images in a batch, of all ranks together.
        seed: Of the order and the augmentation.
        augmentation: Of the epochs that ask for a strong one; the others go by its weak form.
        num_workers: Processes that prepare images.
        cache_mib: How much memory decoded images may take.
        rank: Which part.
        num_ranks: Of how many.
    """

    dataset: DetectionDataset
    specification: InputSpecification
    batch_size: int
    seed: int
    augmentation: Augmentation
    num_workers: int
    cache_mib: int
    rank: int
    num_ranks: int

    @property
    def num_batches(self) -> int:
        """How many an epoch has."""
        return num_training_batches(self.dataset, self.batch_size)

    def __call__(self, *, epoch: int, start_batch: int, strong: bool) -> Iterator[Batch]:
        """Yields the batches of ``epoch``; see :class:`~.step_batches.BatchSource`."""
        return training_batches(
            self.dataset,
            specification=self.specification,
            batch_size=self.batch_size,
            seed=self.seed,
            epoch=epoch,
            augmentation=self.augmentation if strong else self.augmentation.weak,
            num_workers=self.num_workers,
            start_batch=start_batch,
            cache_bytes=self.cache_mib << 20,
            rank=self.rank,
            num_ranks=self.num_ranks,
        )


def validator(
    dataset: DetectionDataset, specification: InputSpecification, device: str
) -> Callable[[nn.Module], float]:
    """Scores a network by its COCO mAP 50:95 on every image of ``dataset``."""

    def validate(network: nn.Module) -> float:
        return measure(
            predictor(network, device),
            dataset,
            specification=specification,
            batch_size=_VALIDATION_BATCH,
            progress=Silent(),
            description="validate",
        ).result.map

    return validate
