"""What the other ranks of the tests do; started by name in processes of their own."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from tests.input_specifications import letterboxed
from tests.training.conftest import DISTILLATION, TinyDetector, changed, rectangles
from tests.yolov6_numbers import LOSS_SETTINGS

from quantpipe.detector.families.yolov6.loss import detection_loss
from quantpipe.errors import DataError
from quantpipe.process_group import ProcessGroup
from quantpipe.progress import Silent
from quantpipe.training.distillation import distillation_loss
from quantpipe.training.epochs import Observers
from quantpipe.training.log import NoLog
from quantpipe.training.loop import TrainResult, train
from quantpipe.training.recipe import Recipe
from quantpipe.training.step import Objective

NUM_BATCHES = 3
NUM_IMAGES = 4


@dataclass(frozen=True)
class Job:
    """A tiny training on rectangles, and what befalls rank 1."""

    recipe: Recipe
    folder: Path
    fate: str = "none"


@dataclass(frozen=True)
class Lessons:
    """A student with ranges to train, its teacher, and a recipe."""

    student: torch.nn.Module
    teacher: torch.nn.Module
    recipe: Recipe
    folder: Path


class Shared:
    """Every rank's rows of the same batches."""

    num_batches = NUM_BATCHES

    def __init__(self, processes: ProcessGroup, fate: str):
        self.processes, self.fate = processes, fate

    def __call__(self, *, epoch: int, start_batch: int, strong: bool) -> Iterator[Any]:
        for index in range(start_batch, NUM_BATCHES):
            if epoch == 1 and self.processes.rank == 1:
                meet(self.fate)
            batch = rectangles(1000 * epoch + index, num_images=NUM_IMAGES)
            yield batch._replace(
                **{
                    k: v[self.processes.rank :: self.processes.size]
                    for k, v in batch._asdict().items()
                }
            )


def meet(fate: str) -> None:
    if fate == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    if fate == "stopped":
        os.kill(os.getpid(), signal.SIGSTOP)
    if fate == "fails":
        raise DataError("an image is damaged", path="x.jpg")


def score(network: torch.nn.Module) -> float:
    return float(sum(t.double().abs().sum() for t in network.state_dict().values()))


def follow(processes: ProcessGroup, job: Job) -> None:
    lead(processes, job)


def lead(processes: ProcessGroup, job: Job, progress: Any = None) -> TrainResult:
    recipe = replace(job.recipe, epochs=3)
    return _trained(TinyDetector(), processes, recipe, job.folder, progress, fate=job.fate)


def learn_along(processes: ProcessGroup, job: Lessons) -> None:
    learn(processes, job)


def learn(processes: ProcessGroup, job: Lessons, progress: Any = None) -> TrainResult:
    recipe = changed(job.recipe, epochs=4, lr=1e-3, warmup_epochs=0.0)
    lessons = distillation_loss(job.teacher, DISTILLATION, epochs=recipe.epochs)
    return _trained(job.student, processes, recipe, job.folder, progress, extra_loss=lessons)


def _trained(
    detector: torch.nn.Module,
    processes: ProcessGroup,
    recipe: Recipe,
    folder: Path,
    progress: Any,
    *,
    fate: str = "none",
    extra_loss: Any = None,
) -> TrainResult:
    return train(
        detector,
        Shared(processes, fate),
        changed(recipe, batch_size=NUM_IMAGES, nominal_batch=NUM_IMAGES),
        Objective(
            loss=detection_loss(LOSS_SETTINGS),
            extra_loss=extra_loss,
            gradient_masks=None,
        ),
        letterboxed(64),
        device=torch.device("cpu"),
        processes=processes,
        save_every=1,
        progress_folder=folder,
        observers=Observers(
            validate=score, log=NoLog(), progress=progress or Silent(), description="train"
        ),
    )


def add_to_copy(processes: ProcessGroup, tensor: torch.Tensor) -> None:
    tensor.data.add_(1)
    processes.all_reduce_sum(torch.zeros(1))


def sleep_long(processes: ProcessGroup, job: Any) -> None:
    time.sleep(600)


def add_up(processes: ProcessGroup, tensors: list[torch.Tensor]) -> float:
    """The sum of many tensors, over ranks."""
    own = torch.stack([tensor.sum() for tensor in tensors]).sum()
    return float(processes.all_reduce_sum(own))
