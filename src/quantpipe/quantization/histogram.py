"""A histogram of magnitudes whose range grows, as pytorch-quantization collects it."""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

NUM_BINS = 2048
# Past this, a first batch much smaller than a later one would cost memory without adding accuracy.
MAX_BINS = 16 * NUM_BINS
# histc counts in float32, which holds integers exactly up to here.
_EXACT = 1 << 24


class Histogram:
    """Counts of |x| in bins of one width, from zero up.

    The first values that are not all zero fix the width (their maximum over 2048); later, larger
    ones add bins of the same width. Past ``MAX_BINS`` neighbours are merged and the width doubles
    (the toolkit goes on growing).

    Attributes:
        counts: (num_bins,) int64; empty until a value other than zero was seen.
        width: Of a bin, 0.0 until a value other than zero was seen.
        amax: The largest magnitude seen.
    """

    def __init__(self) -> None:
        self.counts: NDArray[np.int64] = np.zeros(0, dtype=np.int64)
        self.width = 0.0
        self.amax = 0.0
        self._num_zeros = 0

    def add(self, values: Tensor) -> None:
        """Counts every element of a finite tensor."""
        low, high = (float(value) for value in torch.aminmax(values))
        magnitudes = (values if low >= 0.0 else values.abs()).float().flatten()
        amax = max(high, -low)
        self.amax = max(self.amax, amax)
        if self.amax == 0.0:
            self._num_zeros += magnitudes.numel()
            return
        self._fit(amax)
        self.counts += _count(magnitudes, len(self.counts), self.width)

    def _fit(self, amax: float) -> None:
        if self.width == 0.0:
            self.width = amax / NUM_BINS
            self.counts = np.zeros(NUM_BINS, dtype=np.int64)
            self.counts[0] = self._num_zeros
        needed = math.ceil(amax / self.width - 1e-6)
        while needed > MAX_BINS:
            self.counts = np.pad(self.counts, (0, len(self.counts) % 2)).reshape(-1, 2).sum(axis=1)
            self.width *= 2.0
            needed = math.ceil(amax / self.width - 1e-6)
        if needed > len(self.counts):
            self.counts = np.pad(self.counts, (0, needed - len(self.counts)))


def _count(magnitudes: Tensor, num_bins: int, width: float) -> NDArray[np.int64]:
    counts = np.zeros(num_bins, dtype=np.int64)
    for part in torch.split(magnitudes, _EXACT):
        counts += torch.histc(part, num_bins, 0.0, width * num_bins).cpu().numpy().astype(np.int64)
    # A maximum a rounding error above the last edge is left out by histc.
    counts[-1] += magnitudes.numel() - int(counts.sum())
    return counts
