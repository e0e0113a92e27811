"""What every rank of the tests of calibration does; started by name in processes of its own."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from tests.quantization.conftest import SmallNetwork
from torch import Tensor

from quantpipe.process_group import ProcessGroup
from quantpipe.progress import Silent
from quantpipe.quantization.calibration.collect import Statistics, collect
from quantpipe.quantization.operations import find_operations

NUM_IMAGES, BATCH_SIZE = 9, 4


@dataclass(frozen=True)
class Job:
    """A small network, (N, 3, S, S) images that grow, and perhaps one that holds a NaN."""

    network: SmallNetwork
    images: Tensor
    by_image: bool


def count(processes: ProcessGroup, job: Job) -> Statistics:
    own = range(processes.rank, len(job.images), processes.size)
    return collect(
        job.network,
        find_operations(job.network, torch.zeros(1, 3, 32, 32)),
        _rows(processes, job.images),
        by_image=job.by_image,
        image_names=[f"{number}.jpg" for number in range(len(job.images))],
        processes=processes if processes.size > 1 else None,
        image_numbers=own,
        progress=Silent(),
    )


def _rows(processes: ProcessGroup, images: Tensor) -> Iterator[Tensor]:
    """The last batch holds one image: the second rank has none of it."""
    for start in range(0, len(images), BATCH_SIZE):
        yield images[start : start + BATCH_SIZE][processes.rank :: processes.size]
