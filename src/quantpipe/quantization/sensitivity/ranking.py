"""How much each operation suffers from INT8: one interface over four ways to find out.

A method measures or estimates the degradation of every operation on the same images
(:mod:`~quantpipe.quantization.sensitivity.measured`,
:mod:`~quantpipe.quantization.sensitivity.gradient`); what a ranking by it is worth and what it cost
is told in the same way for all.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Generic, TypeVar

import numpy as np
from torch import nn

from quantpipe.process_group import ProcessGroup
from quantpipe.progress import Progress
from quantpipe.quantization.operations import Operation
from quantpipe.quantization.scale_cache import ScaleCache
from quantpipe.quantization.sensitivity.degradation import Degradation, reliability
from quantpipe.quantization.sensitivity.table import (
    Accuracy,
    Direction,
    SensitivityMethod,
    SensitivityRow,
    SensitivityTable,
    sorted_table,
)

B = TypeVar("B")


@dataclass(frozen=True, kw_only=True)
class RankingTask(Generic[B]):
    """The operations to rank, and the images to rank them on.

    Attributes:
        network: A deployed float network in evaluation mode.
        scales: Its ranges.
        operations: In execution order.
        direction: ``only``: each operation alone in INT8, against the float network;
            ``all_but``: each alone in float inside the INT8 network, against that network.
        batches: Of the images; read once.
        num_batches: How many there are.
        batch_size: The images of each of them but the last.
        processes: Who shares the work; every process has all batches.
        seed: Of projections, resamples and halvings.
        progress: Shows the work.
        progress_folder: Keeps what is measured, so that a run that was stopped goes on from there.
    """

    network: nn.Module
    scales: ScaleCache
    operations: Sequence[Operation]
    direction: Direction
    batches: Iterable[B]
    num_batches: int
    batch_size: int
    processes: ProcessGroup
    seed: int
    progress: Progress
    progress_folder: Path

    @property
    def names(self) -> tuple[str, ...]:
        """The operations by name."""
        return tuple(operation.name for operation in self.operations)


@dataclass(frozen=True, kw_only=True)
class Measured:
    """What a method found.

    Attributes:
        degradation: Of the operations, in their order.
        seconds: The time that it took: of the slowest process, and of all runs together where it
            was stopped.
        passes: How often each image went through the network, forward or backward; a pass that
            reused the outputs of some operations counts by the share of those it computed.
        accuracies: Of the network with each operation switched, where that is measured.
        baseline: mAP 50:95 of the network with none switched, likewise.
    """

    degradation: Degradation
    seconds: float
    passes: float
    accuracies: Mapping[str, Accuracy] = field(default_factory=dict)
    baseline: float | None = None


Method = Callable[[RankingTask[B]], Measured]


def rank_operations(
    name: SensitivityMethod, method: Method[B], task: RankingTask[B]
) -> SensitivityTable:
    """Ranks the operations from the least sensitive to the most.

    Raises:
        DataError: There is no image.
        NumericalError: A score is no number.
        Interrupted: A signal asked to stop; what was measured is kept.
    """
    measured = method(task)
    degradation = measured.degradation
    once = np.ones((1, degradation.num_images), dtype=np.int64)
    errors = degradation.standard_errors(seed=task.seed)
    rows = [
        _row(
            operation,
            float(value),
            None if errors is None else float(errors[index]),
            measured.accuracies.get(operation),
        )
        for index, (operation, value) in enumerate(
            zip(task.names, degradation.resampled(once)[0], strict=True)
        )
    ]
    return sorted_table(
        name,
        rows,
        direction=task.direction,
        baseline=measured.baseline,
        weights_digest=task.scales.weights_digest,
        num_images=degradation.num_images,
        seconds=measured.seconds,
        passes=measured.passes,
        reliability=reliability(degradation, seed=task.seed),
    )


def _row(
    name: str, degradation: float, standard_error: float | None, accuracy: Accuracy | None
) -> SensitivityRow:
    if accuracy is None:
        return SensitivityRow(name=name, score=degradation, standard_error=standard_error)
    return SensitivityRow(
        name=name,
        score=accuracy.map,
        standard_error=standard_error,
        map50=accuracy.map50,
        map=accuracy.map,
        drop=degradation,
    )
