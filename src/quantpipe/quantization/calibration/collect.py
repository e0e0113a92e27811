"""Activation ranges from calibration images: one pass gathers what every method needs."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, cast, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from quantpipe.errors import ConfigurationError, DataError, NumericalError, nearest
from quantpipe.process_group import ProcessGroup
from quantpipe.progress import Progress, stop_if_asked
from quantpipe.quantization.calibration.histogram import Histogram, extremes, joined
from quantpipe.quantization.calibration.solvers import (
    entropy_range,
    percentile_range,
    squared_error_range,
)
from quantpipe.quantization.number_format import NumberFormat
from quantpipe.quantization.operations import Operation, watch_inputs
from quantpipe.quantization.scale_cache import is_dead

CalibrationMethod = Literal["max", "percentile", "entropy", "mse"]


@dataclass(frozen=True, kw_only=True)
class Statistics:
    """What one pass over the calibration images saw.

    Attributes:
        histograms: Of each operation's input; operations that read the same tensor share one.
        num_images: How many images were seen.
    """

    histograms: Mapping[str, Histogram]
    num_images: int

    def resampled(self, drawn: NDArray[np.intp]) -> Statistics:
        """Returns what a pass over ``drawn``, (n,) numbers of images, would have seen.

        The histograms keep their bins; they must have been counted by image.
        """
        distinct = {id(h): h for h in self.histograms.values()}
        again = {key: histogram.resampled(drawn) for key, histogram in distinct.items()}
        return Statistics(
            histograms={name: again[id(h)] for name, h in self.histograms.items()},
            num_images=len(drawn),
        )


def collect(
    network: nn.Module,
    operations: Sequence[Operation],
    batches: Iterable[Tensor],
    *,
    by_image: bool = False,
    image_names: Sequence[str] = (),
    processes: ProcessGroup | None = None,
    image_numbers: Sequence[int] = (),
    progress: Progress,
    total: int | None = None,
) -> Statistics:
    """Runs every batch once and counts the inputs of every operation.

    Args:
        network: Float, in evaluation mode, on the device of the batches.
        operations: From :func:`~quantpipe.quantization.operations.find_operations`.
        batches: (B, 3, H, W) float images, not augmented.
        by_image: Whether to keep what each image adds, for :meth:`Statistics.resampled`.
        image_names: Of the images in their order, for errors; a number stands for a name not given.
        processes: Those that share every batch: each is given its rows, as many batches as the
            others, and returns what all have seen together.
        image_numbers: With ``processes``, where this process's images are among all of them.
        progress: Shows the batches.
        total: The number of batches, where known.

    Raises:
        NumericalError: An operation read a NaN or an infinity; names it and the image.
        DataError: There is no image.
    """
    by_reads: dict[tuple[int, ...], Histogram] = {}
    histograms = {
        o.name: by_reads.setdefault(o.reads, Histogram(by_image=by_image)) for o in operations
    }
    first_readers = {id(h): name for name, h in reversed(histograms.items())}

    def observe(name: str, values: Tensor, first_image: int) -> None:
        if name in histograms and first_readers[id(histograms[name])] == name:
            amax = None if processes is None else _largest(values, processes)
            histograms[name].add(values, first_image=first_image, amax=amax)

    own_names = image_names
    if processes is not None and image_names:
        own_names = [image_names[number] for number in image_numbers]
    num_images = run_calibration(
        network, batches, observe, image_names=own_names, progress=progress, total=total
    )
    seen = Statistics(histograms=histograms, num_images=num_images)
    whole = seen if processes is None else _of_all(seen, processes, image_numbers)
    require_images(whole.num_images)
    return whole


def _largest(values: Tensor, processes: ProcessGroup) -> float:
    """The largest magnitude of the whole batch: the bins are those of one process."""
    low, high = extremes(values)
    own = torch.tensor([max(high, -low)], dtype=torch.float64, device=values.device)
    return float(processes.all_reduce_max(own))


def _of_all(seen: Statistics, processes: ProcessGroup, image_numbers: Sequence[int]) -> Statistics:
    names: dict[int, str] = {}
    for name, histogram in seen.histograms.items():
        names.setdefault(id(histogram), name)
    own = {names[id(h)]: h for h in seen.histograms.values()}
    parts = processes.all_gather((own, tuple(image_numbers)))
    numbers = [part[1] for part in parts]
    whole = {name: joined([part[0][name] for part in parts], numbers) for name in own}
    return Statistics(
        histograms={name: whole[names[id(h)]] for name, h in seen.histograms.items()},
        num_images=sum(map(len, numbers)),
    )


def run_calibration(
    network: nn.Module,
    batches: Iterable[Tensor],
    observe: Callable[[str, Tensor, int], None],
    *,
    image_names: Sequence[str],
    progress: Progress,
    total: int | None,
) -> int:
    """Shows ``observe`` every operation's inputs, checked to be finite; returns the image count.

    ``observe`` is told the operation, what it reads, (B, ...), and the number of the first image;
    the rest is as :func:`collect` takes it.

    Raises:
        NumericalError: An operation read a NaN or an infinity.
    """
    assert not network.training
    num_images = 0

    def checked(name: str, values: Tensor) -> None:
        _require_finite(name, values, num_images, image_names)
        observe(name, values, num_images)

    with watch_inputs(network, checked), torch.no_grad():
        for images in progress.track(batches, "calibrating", total=total):
            network(images)
            num_images += len(images)
            stop_if_asked(progress)
    return num_images


def require_images(num_images: int) -> None:
    """Refuses ranges of nothing.

    Raises:
        DataError: There was no image.
    """
    if num_images == 0:
        raise DataError("there is no image to calibrate with")


def _require_finite(
    operation: str, values: Tensor, first_image: int, image_names: Sequence[str]
) -> None:
    # The extremes of a tensor are finite only where all of it is, and cost no copy.
    low, high = extremes(values)
    if math.isfinite(low) and math.isfinite(high):
        return
    finite = torch.isfinite(values).flatten(1).all(dim=1)
    number = first_image + int((~finite).nonzero()[0])
    image = image_names[number] if number < len(image_names) else number
    raise NumericalError(
        f"calibration image {image} gives a NaN or an infinity at the input of operation "
        f"'{operation}'",
        hint="check this image and the weights before the operation",
    )


def solve(
    statistics: Statistics,
    method: CalibrationMethod,
    *,
    number_format: NumberFormat,
    percentile: float | None = None,
    progress: Progress,
) -> dict[str, float]:
    """Returns the amax of each operation's input.

    Args:
        statistics: From :func:`collect`.
        method: ``max``: the largest magnitude; ``percentile``: clips what lies beyond it;
            ``entropy``: least KL divergence; ``mse``: least squared error.
        number_format: That the inputs are rounded to.
        percentile: In (0, 100], for ``percentile`` alone.
        progress: Told of inputs that were zero everywhere; they get a small range.

    Raises:
        ConfigurationError: For another method or percentile.
    """
    check_method(method, percentile)
    solved: dict[int, float] = {}
    for histogram in statistics.histograms.values():
        if id(histogram) not in solved:
            solved[id(histogram)] = _amax(histogram, method, percentile, number_format)
    amax = {name: solved[id(h)] for name, h in statistics.histograms.items()}
    return floor_dead(amax, number_format, progress)


def check_method(method: str, percentile: float | None) -> None:
    """Refuses an unknown method, and a percentile that is none.

    Raises:
        ConfigurationError: Names the value and what is valid.
    """
    if method not in get_args(CalibrationMethod):
        raise ConfigurationError(
            f"unknown calibration method '{method}'",
            hint=nearest(method, get_args(CalibrationMethod)),
        )
    if method == "percentile" and (percentile is None or not 0.0 < percentile <= 100.0):
        raise ConfigurationError(
            f"percentile is {percentile}", hint="give a number above 0 and up to 100"
        )


def floor_dead(
    amax: Mapping[str, float], number_format: NumberFormat, progress: Progress
) -> dict[str, float]:
    """Returns ``amax`` with a small range in place of zeros, and notes which they were."""
    dead = [name for name, value in amax.items() if is_dead(value)]
    if dead:
        progress.note(f"zero on every calibration image: input of {', '.join(dead)}")
    floor = number_format.floor_amax
    return {name: floor if is_dead(value) else value for name, value in amax.items()}


def _amax(
    histogram: Histogram,
    method: CalibrationMethod,
    percentile: float | None,
    number_format: NumberFormat,
) -> float:
    if method == "max" or is_dead(histogram.amax):
        return histogram.amax
    if method == "percentile":
        # check_method has refused None.
        return histogram.width * percentile_range(histogram.counts, cast(float, percentile))
    search = {"entropy": entropy_range, "mse": squared_error_range}[method]
    return histogram.width * search(histogram.counts, number_format)
