"""Degradation that is measured, with one operation after the other switched.

``map``: the published way (YOLOv6, arXiv 2209.02976, section 2.5). ``loss``: the detection loss of
every image, which the same quantization changes by little and always, where mAP changes by jumps.
``output``: what the network gives out, without labels.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

import numpy as np
from torch import Tensor, nn

from quantpipe.errors import NumericalError
from quantpipe.quantization.output_error import OutputError
from quantpipe.quantization.records import Record
from quantpipe.quantization.sensitivity.degradation import (
    Counts,
    Floats,
    bootstrap_errors,
    mean_degradation,
)
from quantpipe.quantization.sensitivity.ranking import Measured, Method, RankingTask
from quantpipe.quantization.sensitivity.sweep import REFERENCE, Probe, Sweep, sweep
from quantpipe.quantization.sensitivity.table import Accuracy

B = TypeVar("B")
S = TypeVar("S")

Outputs = Callable[[nn.Module, B], Sequence[Tensor]]

_VALUE = "value"


class Precision(Protocol):
    """Average precision as a fraction of one."""

    @property
    def map50(self) -> float:
        """At IoU 0.50."""
        ...

    @property
    def map(self) -> float:
        """The mean over IoU 0.50:0.95."""
        ...


class Matched(Protocol):
    """Detections on N images, matched to what is there."""

    @property
    def num_images(self) -> int:
        """N."""
        ...

    def average_precision(self) -> Precision:
        """Returns the average precision on all images."""
        ...

    def resampled(self, multiplicities: Counts) -> Floats:
        """Returns mAP 50:95, (R,), where every image counts as often as (R, N) say."""
        ...


def by_map(
    detect: Callable[[nn.Module, B], Record], match: Callable[[Sequence[Record]], Matched]
) -> Method[B]:
    """Returns the method that measures average precision with one operation switched.

    Args:
        detect: The detections of a network on a batch, as arrays.
        match: Matches the detections of all batches, in order.
    """

    def measure(task: RankingTask[B]) -> Measured:
        probe: Probe[B, Record] = Probe(name="map", observe=detect, reduce=lambda seen, _: seen)
        found = sweep(task, probe)
        matched = {name: match(records) for name, records in found.records.items()}
        reference = matched.pop(REFERENCE)
        accuracies = {n: _checked(n, m.average_precision()) for n, m in matched.items()}
        return Measured(
            degradation=_MapDegradation(
                reference=reference, switched=tuple(matched.values()), sign=_sign(task)
            ),
            seconds=found.seconds,
            passes=found.passes,
            accuracies=accuracies,
            baseline=reference.average_precision().map,
        )

    return measure


def by_loss(predict: Callable[[nn.Module, B], S], losses: Callable[[S, S], Tensor]) -> Method[B]:
    """Returns the method that measures the change of a loss, paired image by image.

    Args:
        predict: What the loss needs of a network and a batch.
        losses: From that, and from the same of the float network, the loss of each image alone,
            (B,). What the float network found decides what is wanted of all of them: targets that
            followed the degradation would hide it.
    """
    return _by_images("loss", predict, losses)


def by_output(outputs: Outputs[B], error: OutputError) -> Method[B]:
    """Returns the method that measures the error of the outputs against the float network.

    Args:
        outputs: Of a network on a batch, each (B, ...).
        error: What an error of the outputs is.
    """
    return _by_images(f"output {error.name}", outputs, error.measure)


def _by_images(
    name: str, observe: Callable[[nn.Module, B], S], values: Callable[[S, S], Tensor]
) -> Method[B]:
    def measure(task: RankingTask[B]) -> Measured:
        probe: Probe[B, S] = Probe(
            name=name,
            observe=observe,
            reduce=lambda seen, in_float: _reduced(values(seen, in_float)),
        )
        return _mean_change(task, sweep(task, probe))

    return measure


@dataclass(frozen=True, kw_only=True, eq=False)
class _MapDegradation:
    """Average precision lost to each operation, against a reference on the same images."""

    reference: Matched
    switched: tuple[Matched, ...]
    sign: float

    @property
    def num_images(self) -> int:
        return self.reference.num_images

    def resampled(self, multiplicities: Counts) -> Floats:
        reference = self.reference.resampled(multiplicities)
        columns = [reference - one.resampled(multiplicities) for one in self.switched]
        return self.sign * np.stack(columns, axis=1)

    def standard_errors(self, *, seed: int) -> Floats | None:
        return None if self.num_images < 2 else bootstrap_errors(self, seed=seed)


def _mean_change(task: RankingTask[B], found: Sweep) -> Measured:
    values = {
        name: [float(v) for record in records for v in record[_VALUE]]
        for name, records in found.records.items()
    }
    reference = values.pop(REFERENCE)
    sign = _sign(task)
    changes = {
        name: [sign * (value - before) for value, before in zip(row, reference, strict=True)]
        for name, row in values.items()
    }
    return Measured(
        degradation=mean_degradation(changes), seconds=found.seconds, passes=found.passes
    )


def _sign(task: RankingTask[B]) -> float:
    """1 where a switched operation is in INT8, and degrades; -1 where it is spared it."""
    return 1.0 if task.direction == "only" else -1.0


def _reduced(values: Tensor) -> Mapping[str, Floats]:
    return {_VALUE: values.double().cpu().numpy()}


def _checked(name: str, precision: Precision) -> Accuracy:
    accuracy = Accuracy(map50=precision.map50, map=precision.map)
    if not all(math.isfinite(value) for value in accuracy):
        raise NumericalError(f"the network with '{name}' switched scores {tuple(accuracy)}")
    return accuracy
