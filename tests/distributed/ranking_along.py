"""What each rank of a ranking does; started by name in processes of their own."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from tests.quantization.conftest import predict
from torch import Tensor, nn

from quantpipe.process_group import ProcessGroup
from quantpipe.progress import Silent
from quantpipe.quantization.output_error import OUTPUT_ERRORS
from quantpipe.quantization.sensitivity.gradient import by_gradient
from quantpipe.quantization.sensitivity.measured import by_loss, by_output
from quantpipe.quantization.sensitivity.ranking import Method, RankingTask, rank_operations
from quantpipe.quantization.sensitivity.table import SensitivityMethod, SensitivityTable

NOISE = OUTPUT_ERRORS["noise"]


@dataclass(frozen=True)
class Job:
    """A method, and a subject whose processes are filled in."""

    method: SensitivityMethod
    given: dict[str, Any]


def losses(seen: tuple[Tensor, ...], in_float: tuple[Tensor, ...]) -> Tensor:
    terms = [(a - b).abs().flatten(1).mean(dim=1) for a, b in zip(seen, in_float, strict=True)]
    return torch.stack(terms).sum(dim=0)


METHODS: dict[str, Method[Tensor]] = {
    "loss": by_loss(predict, losses),
    "output": by_output(predict, NOISE),
    "gradient": by_gradient(predict, NOISE, num_projections=2),
}


class StopsAfter(Silent):
    def __init__(self, count: int) -> None:
        self.left = count

    def should_stop(self) -> bool:
        self.left -= 1
        return self.left <= 0


def lead(processes: ProcessGroup, job: Job, progress: Silent | None = None) -> SensitivityTable:
    task: RankingTask[Tensor] = RankingTask(
        **job.given, processes=processes, progress=progress or Silent()
    )
    return rank_operations(job.method, METHODS[job.method], task)


def follow(processes: ProcessGroup, job: Job) -> None:
    lead(processes, job)


class Tiny(nn.Module):
    """Enough for one rank to have less to do than the other: three operations."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 4, 3, padding=1)
        self.left = nn.Conv2d(4, 5, 1)
        self.right = nn.Conv2d(4, 4, 1)

    def forward(self, images: Tensor) -> Tensor:
        return torch.cat(self.predict(images), dim=1)

    def predict(self, images: Tensor) -> tuple[Tensor, Tensor]:
        x = self.first(images).relu_()
        return self.left(x), self.right(x)
