"""Activation ranges from the images of a data set: one pass, solved for a method, resampled."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from quantpipe.core.stage import Context
from quantpipe.data.batches import float_batches, num_batches
from quantpipe.data.dataset import DetectionDataset
from quantpipe.detector.families.implementation import DetectorNetwork, raw_outputs
from quantpipe.detector.input_specification import InputSpecification
from quantpipe.distributed.ranks import run_together
from quantpipe.process_group import ProcessGroup
from quantpipe.progress import Progress, Silent
from quantpipe.quantization.calibration import collect as calibration
from quantpipe.quantization.calibration.candidates import (
    candidate_ranges,
    chosen_ranges,
    range_degradations,
)
from quantpipe.quantization.calibration.collect import CalibrationMethod, Statistics, solve
from quantpipe.quantization.calibration.statistics_file import load_statistics, save_statistics
from quantpipe.quantization.number_format import NumberFormat
from quantpipe.quantization.operations import Operation
from quantpipe.quantization.output_error import OUTPUT_ERRORS
from quantpipe.quantization.shared_ranges import concat_groups, unify

RangeSolver = Callable[[NDArray[np.intp] | None], dict[str, float]]
"""(n,) numbers of images, with repetition, or None for all, to the amax of each operation."""

_STATISTICS, _STATISTICS_VERSION = "statistics.npz", 2


@dataclass(frozen=True, kw_only=True)
class CalibrationImages:
    """Some images of a data set, in batches.

    Attributes:
        dataset: Where they are.
        chosen: Their numbers in it, ascending.
        specification: What the network takes.
        batch_size: How many pass the network at once.
    """

    dataset: DetectionDataset
    chosen: Sequence[int]
    specification: InputSpecification
    batch_size: int

    def batches(self, device: str, *, rank: int = 0, num_ranks: int = 1) -> Iterator[Tensor]:
        """Yields (B, 3, H, W) float images: a rank's rows of every batch, perhaps none.

        ``num_ranks`` divides the batch size.
        """
        part = self.batch_size // num_ranks
        own = self.numbers(rank, num_ranks)
        yield from float_batches(
            self.dataset,
            [self.chosen[number] for number in own],
            specification=self.specification,
            batch_size=part,
            device=device,
        )
        if num_batches(len(own), part) < self.num_batches:
            yield torch.empty(0, 3, *self.specification.size, device=device)

    def numbers(self, rank: int, num_ranks: int) -> range:
        """Which of ``chosen`` a rank is given."""
        return range(rank, len(self.chosen), num_ranks)

    @property
    def num_batches(self) -> int:
        """How many batches there are."""
        return num_batches(len(self.chosen), self.batch_size)

    @property
    def names(self) -> tuple[str, ...]:
        """The files, for errors."""
        return tuple(self.dataset.images[number].path.name for number in self.chosen)


def collect_statistics(
    network: DetectorNetwork,
    operations: Sequence[Operation],
    images: CalibrationImages,
    *,
    weights_digest: str,
    by_image: bool,
    num_ranks: int,
    timeout_seconds: float,
    context: Context,
) -> Statistics:
    """What every operation reads; counted once for every method and percentile, and kept.

    ``num_ranks`` processes share every batch; what they find does not depend on their number.

    Raises:
        MachineError: A rank died or no longer answers; names it.
    """
    job = _CountingJob(
        network=network if num_ranks == 1 else copy.deepcopy(network).cpu(),
        operations=operations,
        images=images,
        by_image=by_image,
        device=context.device,
    )

    def count() -> Statistics:
        return run_together(
            lambda processes: _count(processes, job, context.progress),
            _count_along,
            job,
            size=num_ranks,
            device=context.device,
            timeout_seconds=timeout_seconds,
        )

    folder = context.materialize(
        {"statistics": _STATISTICS_VERSION, "weights": weights_digest, **job.named_by()},
        lambda root: save_statistics(root / _STATISTICS, count()),
    )
    return load_statistics(folder / _STATISTICS)


@dataclass(frozen=True, kw_only=True)
class _CountingJob:
    """What every rank is told."""

    network: DetectorNetwork
    operations: Sequence[Operation]
    images: CalibrationImages
    by_image: bool
    device: str

    def named_by(self) -> dict[str, Any]:
        """What decides, beside the weights, what is counted."""
        return {
            "images": self.images.dataset.subset(self.images.chosen).fingerprint(),
            "input": asdict(self.images.specification),
            "batch_size": self.images.batch_size,
            "device": self.device,
            "by_image": self.by_image,
        }


def _count_along(processes: ProcessGroup, job: _CountingJob) -> None:
    _count(processes, job, Silent())


def _count(processes: ProcessGroup, job: _CountingJob, progress: Progress) -> Statistics:
    images = job.images
    device = f"cuda:{processes.local_rank}" if job.device == "cuda" else job.device
    return calibration.collect(
        job.network.to(device),
        job.operations,
        images.batches(device, rank=processes.rank, num_ranks=processes.size),
        by_image=job.by_image,
        image_names=images.names,
        processes=processes if processes.size > 1 else None,
        image_numbers=images.numbers(processes.rank, processes.size),
        progress=progress,
        total=images.num_batches,
    )


def range_solver(
    network: DetectorNetwork,
    operations: Sequence[Operation],
    images: CalibrationImages,
    statistics: Statistics,
    *,
    method: CalibrationMethod | Literal["auto"],
    number_format: NumberFormat,
    percentile: float | None,
    context: Context,
) -> RangeSolver:
    """Returns what solves the ranges: from all images, or from numbers of some of them.

    Operations whose tensors meet in a concat get one range. ``auto`` weighs the candidates here,
    once; the rest is arithmetic on what was counted.
    """
    example = torch.zeros(1, 3, *images.specification.size, device=context.device)
    groups = concat_groups(network, example)
    if method == "auto":
        return _by_degradation(
            network, operations, images, statistics, groups, number_format, context
        )
    return _by_method(statistics, groups, method, number_format, percentile, context.progress)


def _by_method(
    statistics: Statistics,
    groups: Sequence[frozenset[str]],
    method: CalibrationMethod,
    number_format: NumberFormat,
    percentile: float | None,
    progress: Progress,
) -> RangeSolver:
    def solved(drawn: NDArray[np.intp] | None) -> dict[str, float]:
        amax = solve(
            _drawn(statistics, drawn),
            method,
            number_format=number_format,
            percentile=percentile,
            progress=progress if drawn is None else Silent(),
        )
        return unify(amax, groups)

    return solved


def _by_degradation(
    network: DetectorNetwork,
    operations: Sequence[Operation],
    images: CalibrationImages,
    statistics: Statistics,
    groups: Sequence[frozenset[str]],
    number_format: NumberFormat,
    context: Context,
) -> RangeSolver:
    degradations = range_degradations(
        network,
        operations,
        groups,
        candidate_ranges(statistics, groups, number_format=number_format),
        images.batches(context.device),
        number_format=number_format,
        outputs=raw_outputs,
        error=OUTPUT_ERRORS["detections"],
        seed=context.seed,
        progress=context.progress,
        total=images.num_batches,
    )
    numbers = Counter(degradations.least().values()).most_common()
    context.progress.note(
        f"{context.step}: least degrading ranges: "
        + ", ".join(f"{label} for {number}" for label, number in numbers)
    )

    def solved(drawn: NDArray[np.intp] | None) -> dict[str, float]:
        labels = degradations.least(drawn)
        seen, only = _drawn(statistics, drawn), set(labels.values())
        candidates = candidate_ranges(seen, groups, number_format=number_format, only=only)
        return chosen_ranges(candidates, labels)

    return solved


def _drawn(statistics: Statistics, numbers: NDArray[np.intp] | None) -> Statistics:
    """What was counted on all images, or on a draw of them."""
    return statistics if numbers is None else statistics.resampled(numbers)
