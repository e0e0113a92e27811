"""How sure the ranges are: what they would have been on other draws of the calibration images.

The images are drawn again with replacement, as many as there are, and the ranges solved anew from
what these images added to the statistics (Efron and Tibshirani, "An Introduction to the
Bootstrap", 1993, chapter 6). A range that moves much hangs on few images.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from quantpipe.files import write_json
from quantpipe.progress import Progress, stop_if_asked

FORMAT = "quantpipe-ranges"
VERSION = 1

Solve = Callable[[NDArray[np.intp]], Mapping[str, float]]
"""(n,) numbers of images, with repetition, to the amax of each operation's input."""

_TAIL = 2.5  # percent, on either side of the interval
_NUM_NAMED = 3


@dataclass(frozen=True, kw_only=True)
class RangeInterval:
    """The range of one tensor, and where it lay on the resamples.

    Attributes:
        name: ``<operation>.input``.
        amax: As calibrated, on all images.
        mean: Over the resamples.
        standard_deviation: Over the resamples.
        low: The resample that 2.5 % lie below.
        high: The resample that 2.5 % lie above.
        flagged: Whether it moves too much: more images are needed.
    """

    name: str
    amax: float
    mean: float
    standard_deviation: float
    low: float
    high: float
    flagged: bool

    @property
    def spread(self) -> float:
        """The standard deviation as a share of the mean."""
        return self.standard_deviation / self.mean


def bootstrap_ranges(
    amax: Mapping[str, float],
    solve: Solve,
    *,
    num_images: int,
    count: int,
    max_spread: float,
    seed: int,
    progress: Progress,
) -> tuple[RangeInterval, ...]:
    """Solves the ranges on ``count`` resamples of the images.

    Args:
        amax: Of each operation's input, as calibrated.
        solve: What calibrated them, on other images.
        num_images: How many there are to draw from, and are drawn.
        count: Resamples, at least 2.
        max_spread: A standard deviation above this share of the mean flags the range.
        seed: Of the draws.
        progress: Shows the resamples.

    Raises:
        Interrupted: A signal asked to stop.
    """
    rng = np.random.default_rng(seed)
    found = np.empty((count, len(amax)))
    for row in progress.track(found, "resampling", total=count):
        ranges = solve(np.sort(rng.integers(num_images, size=num_images)))
        row[:] = [ranges[name] for name in amax]
        stop_if_asked(progress)
    return tuple(
        _interval(name, value, column, max_spread)
        for (name, value), column in zip(amax.items(), found.T, strict=True)
    )


def _interval(
    operation: str, amax: float, resampled: NDArray[np.float64], max_spread: float
) -> RangeInterval:
    mean, deviation = float(resampled.mean()), float(resampled.std(ddof=1))
    low, high = np.percentile(resampled, [_TAIL, 100.0 - _TAIL])
    return RangeInterval(
        name=f"{operation}.input",
        amax=amax,
        mean=mean,
        standard_deviation=deviation,
        low=float(low),
        high=float(high),
        flagged=deviation > max_spread * mean,
    )


def describe_flagged(intervals: tuple[RangeInterval, ...], max_spread: float) -> str:
    """Returns one line: how many ranges are flagged, and which move most."""
    flagged = sorted((i for i in intervals if i.flagged), key=lambda i: -i.spread)
    head = f"{len(flagged)} of {len(intervals)} ranges move by more than {max_spread:.3g}"
    head += " of their size between draws of the images"
    if not flagged:
        return head
    worst = ", ".join(f"{i.name} ({i.spread:.3f})" for i in flagged[:_NUM_NAMED])
    more = ", ..." if len(flagged) > _NUM_NAMED else ""
    return f"{head}: {worst}{more}; they need more images"


def save_intervals(
    path: Path, intervals: tuple[RangeInterval, ...], *, count: int, max_spread: float
) -> None:
    """Writes the intervals as JSON."""
    document = {
        "format": FORMAT,
        "version": VERSION,
        "num_resamples": count,
        "max_spread": max_spread,
        "ranges": [asdict(interval) for interval in intervals],
    }
    write_json(path, document)
