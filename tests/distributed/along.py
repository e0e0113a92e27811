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
from tests.training.conftest import TinyDetector, rectangles

from quantpipe.errors import DataError
from quantpipe.progress import Silent
from quantpipe.training.log import NoLog
from quantpipe.training.loop import TrainResult, train
from quantpipe.training.recipe import Recipe
from quantpipe.training.team import Team

NUM_BATCHES = 3
NUM_IMAGES = 4


@dataclass(frozen=True)
class Job:
    """A tiny training on rectangles, and what befalls rank 1."""

    recipe: Recipe
    folder: Path
    fate: str = "none"


class Shared:
    """Every rank's rows of the same batches."""

    def __init__(self, team: Team, fate: str):
        self.team, self.fate = team, fate

    def __call__(self, *, epoch: int, start_batch: int, strong: bool) -> Iterator[Any]:
        for index in range(start_batch, NUM_BATCHES):
            if epoch == 1 and self.team.rank == 1:
                meet(self.fate)
            batch = rectangles(1000 * epoch + index, num_images=NUM_IMAGES)
            yield batch._replace(
                **{k: v[self.team.rank :: self.team.size] for k, v in batch._asdict().items()}
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


def follow(team: Team, job: Job) -> None:
    lead(team, job)


def lead(team: Team, job: Job, progress: Any = None) -> TrainResult:
    return train(
        TinyDetector(),
        Shared(team, job.fate),
        replace(job.recipe, epochs=3, batch_size=NUM_IMAGES, nominal_batch=NUM_IMAGES),
        num_batches=NUM_BATCHES,
        device=torch.device("cpu"),
        gradient_masks=None,
        extra_loss=None,
        validate=score,
        validate_every=1,
        patience=None,
        save_every=1,
        log=NoLog(),
        progress_folder=job.folder,
        progress=progress or Silent(),
        description="train",
        team=team,
    )


def add_to_copy(team: Team, tensor: torch.Tensor) -> None:
    tensor.data.add_(1)
    team.sum(torch.zeros(1))


def sleep_long(team: Team, job: Any) -> None:
    time.sleep(600)
