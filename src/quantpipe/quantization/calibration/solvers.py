"""The best clipping range of a histogram of magnitudes: percentile, entropy (KL), squared error.

The criteria are those of pytorch-quantization 2.1.3 with its defaults (a signed format: as many
magnitudes as it has levels, 128 for INT8; the search starts at bin 128), in closed form over
cumulative sums, so that all candidates are scored at once. Answers are in
bins; times the bin width they are ranges.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from quantpipe.quantization.number_format import NumberFormat

START_BIN = 128

Counts = NDArray[np.int64]
Floats = NDArray[np.float64]


def percentile_range(counts: Counts, percentile: float) -> float:
    """Returns the first bin edge that ``percentile`` % of the values do not exceed, never 0."""
    distribution = np.cumsum(counts / counts.sum())
    index = int(np.searchsorted(distribution, percentile / 100.0))
    return float(max(index, 1))


def entropy_range(counts: Counts, number_format: NumberFormat) -> float:
    """Returns the range i whose quantized distribution is nearest to the clipped one.

    Minimizes KL(P_i || Q_i) over i in [128, num_bins]: P_i holds the first i bins, with all
    that lies beyond added to the last; Q_i spreads each of as many equal groups of those bins as
    the format has levels (128 for INT8) evenly over the group's non-empty bins (Migacz, 8-bit
    inference with TensorRT, GTC 2017). Bin 0 counts as bin 1, so that the zeros of a ReLU do not
    decide. Of equal ranges the largest wins.
    """
    bins = counts.astype(np.float64)
    bins[0] = bins[1]
    limits = np.arange(START_BIN, len(bins) + 1)
    divergence = _divergences(bins, limits, number_format.max_level + 1)
    if not np.isfinite(divergence).any():
        return float(len(bins))
    last_best = len(divergence) - 1 - int(np.argmin(divergence[::-1]))
    return float(limits[last_best])


def _divergences(bins: Floats, limits: NDArray[np.int64], num_levels: int) -> Floats:
    mass = _cumulative(bins)
    total = mass[-1]
    # Group g of range i starts at bin ceil(g i / num_levels).
    starts = -(-(limits[:, None] * np.arange(num_levels + 1)) // num_levels)
    group_mass = np.diff(mass[starts], axis=1)
    group_size = np.diff(_cumulative(bins > 0)[starts], axis=1)
    level = np.divide(group_mass, group_size, out=np.zeros_like(group_mass), where=group_size > 0)

    last = bins[limits - 1]
    tail = total - mass[limits]
    self_information = _cumulative(_x_log(bins, bins))[limits - 1] + _x_log(
        last + tail, last + tail
    )
    cross = _x_log(group_mass, level).sum(axis=1) + _x_log(tail, level[:, -1])
    kept = mass[limits]
    # Outliers that are moved into an empty bin meet a zero of Q.
    defined = (kept > 0) & ((last > 0) | (tail <= 0))
    divergence = np.full(len(limits), np.inf)
    divergence[defined] = ((self_information - cross) / max(total, 1.0))[defined] + np.log(
        kept[defined] / total
    )
    return divergence


def squared_error_range(counts: Counts, number_format: NumberFormat) -> float:
    """Returns the range (a bin center) that loses least: the sum over bins of count * error^2.

    Candidates are the centers of the bins from 128 on; of equal ones the smallest wins.
    """
    moments, max_level = _moments(counts), number_format.max_level
    ranges = np.arange(START_BIN, len(counts)) + 0.5
    step = ranges[:, None] / max_level
    levels = np.arange(max_level + 1)
    # Level q takes the centers k + 0.5 from (q - 0.5) steps on; the last level takes all beyond.
    starts = np.ceil((levels - 0.5) * step - 0.5).astype(np.int64).clip(0, len(counts))
    ends = np.concatenate([starts[:, 1:], np.full((len(ranges), 1), len(counts))], axis=1)
    zeroth, first, second = (moment[ends] - moment[starts] for moment in moments)
    value = levels * step
    error = (second - 2.0 * value * first + value**2 * zeroth).sum(axis=1)
    return float(ranges[int(np.argmin(error))])


def _moments(counts: Counts) -> tuple[Floats, Floats, Floats]:
    weights = counts.astype(np.float64)
    centers = np.arange(len(counts)) + 0.5
    return (
        _cumulative(weights),
        _cumulative(weights * centers),
        _cumulative(weights * centers**2),
    )


def _cumulative(values: NDArray[np.generic]) -> Floats:
    return np.concatenate([[0.0], np.cumsum(values, dtype=np.float64)])


def _x_log(x: Floats, y: Floats) -> Floats:
    """Returns x log y, 0 where x or y is 0."""
    logarithm = np.log(y, out=np.zeros_like(y), where=y > 0)
    return np.where(x > 0, x * logarithm, 0.0)
