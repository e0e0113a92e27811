"""A histogram of magnitudes whose range grows, as pytorch-quantization collects it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from quantpipe.quantization.calibration.solvers import START_BIN

NUM_BINS = 2048
# Past this, a first batch much smaller than a later one would cost memory without adding accuracy.
MAX_BINS = 16 * NUM_BINS

Counts = NDArray[np.int64]
_Integer = TypeVar("_Integer", np.int32, np.int64)


class Histogram:
    """Counts of |x| in bins of one width, from zero up.

    The first values that are not all zero fix the width (their maximum over 2048); later, larger
    ones add bins of the same width. Past ``MAX_BINS`` neighbors are merged and the width doubles
    (pytorch-quantization goes on growing).

    Args:
        by_image: Whether to keep the counts of each image too; 4 bytes an image and bin.

    Attributes:
        counts: (num_bins,) int64; empty until a value other than zero was seen.
        width: Of a bin, 0.0 until a value other than zero was seen.
        amax: The largest magnitude seen.
        images: With ``by_image`` each image's counts, int32, as far as they go: at most num_bins.
        image_amax: With ``by_image`` each image's largest magnitude.
    """

    def __init__(self, *, by_image: bool = False) -> None:
        self.counts: Counts = np.zeros(0, dtype=np.int64)
        self.width = 0.0
        self.amax = 0.0
        self.images: list[NDArray[np.int32]] = []
        self.image_amax: list[float] = []
        self._by_image = by_image
        self._num_zeros = 0
        self._matrix: NDArray[np.int32] | None = None

    def add(self, values: Tensor, *, first_image: int = 0, amax: float | None = None) -> None:
        """Counts every element of a finite tensor.

        Args:
            values: (B, ...), one row an image; (n,) counts as one.
            first_image: The number of the first row's image, for ``by_image``: an image that is
                met again adds to its counts.
            amax: The largest magnitude of the whole of which these are a part; None: of ``values``.
        """
        rows = (values.flatten(1) if values.dim() > 1 else values.unsqueeze(0)).float()
        low, high = extremes(rows)
        amax = max(high, -low) if amax is None else amax
        self.amax = max(self.amax, amax)
        if self.amax > 0.0:
            self._fit(amax)
        if len(rows) == 0:
            return
        counter = _Counter(rows, len(self.counts), self.width, signed=low < 0.0)
        largest = rows.abs().amax(dim=1).tolist() if self._by_image else []
        for index, row in enumerate(rows):
            counts = counter(row)
            if self.width == 0.0:
                self._num_zeros += int(counts[0])
            else:
                self.counts += counts
            if self._by_image:
                self._add_image(first_image + index, counts.astype(np.int32), largest[index])

    def resampled(self, drawn: NDArray[np.intp]) -> Histogram:
        """Returns the histogram of some of the images, each as often as it was drawn.

        Args:
            drawn: (n,) numbers of images; needs ``by_image``.
        """
        assert len(self.image_amax) > 0, "the images were not counted one by one"
        resample = Histogram()
        resample.amax = max(self.image_amax[number] for number in drawn)
        resample.width = self.width
        if resample.amax > 0.0:
            counts = self.image_matrix()[drawn].sum(axis=0, dtype=np.int64)
            num_bins = int(np.flatnonzero(counts)[-1]) + 1
            # The searches start at this bin; what they find in fewer is the first of them.
            resample.counts = counts[: max(num_bins, START_BIN + 1)]
        return resample

    def image_matrix(self) -> NDArray[np.int32]:
        """Returns the counts of the images, (images, num_bins)."""
        if self._matrix is None:
            self._matrix = np.zeros((len(self.images), len(self.counts)), dtype=np.int32)
            if self.amax > 0.0:
                for row, counts in zip(self._matrix, self.images, strict=True):
                    row[: len(counts)] = counts
        return self._matrix

    def _add_image(self, number: int, counts: NDArray[np.int32], amax: float) -> None:
        self._matrix = None
        if number == len(self.images):
            self.images.append(counts)
            self.image_amax.append(amax)
            return
        before = self.images[number]
        counts[: len(before)] += before
        self.images[number] = counts
        self.image_amax[number] = max(self.image_amax[number], amax)

    def _fit(self, amax: float) -> None:
        if self.width == 0.0:
            self.width = amax / NUM_BINS
            self.counts = np.zeros(NUM_BINS, dtype=np.int64)
            self.counts[0] = self._num_zeros
        needed = math.ceil(amax / self.width - 1e-6)
        while needed > MAX_BINS:
            self.counts = _merged(self.counts)
            self.images = [_merged(counts) for counts in self.images]
            self.width *= 2.0
            needed = math.ceil(amax / self.width - 1e-6)
        if needed > len(self.counts):
            self.counts = np.pad(self.counts, (0, needed - len(self.counts)))


def joined(parts: Sequence[Histogram], numbers: Sequence[Sequence[int]]) -> Histogram:
    """Returns the histogram of parts that were counted with the same ``amax`` in every ``add``.

    Args:
        parts: Each of some of the images.
        numbers: For each part the numbers of its images in the whole, in its own order.
    """
    first = parts[0]
    assert all((p.width, len(p.counts)) == (first.width, len(first.counts)) for p in parts)
    whole = Histogram()
    whole.counts = np.sum([part.counts for part in parts], axis=0)
    whole.width, whole.amax = first.width, first.amax
    if any(part.image_amax for part in parts):
        order = np.argsort(np.concatenate([np.asarray(own, dtype=np.intp) for own in numbers]))
        images = [counts for part in parts for counts in part.images]
        amax = [value for part in parts for value in part.image_amax]
        whole.images = [images[place] for place in order]
        whole.image_amax = [amax[place] for place in order]
    return whole


def extremes(values: Tensor) -> tuple[float, float]:
    """Returns the least and the largest value, twice 0 where there is none."""
    if values.numel() == 0:
        return 0.0, 0.0
    low, high = torch.aminmax(values.detach())
    return float(low), float(high)


def _merged(counts: NDArray[_Integer]) -> NDArray[_Integer]:
    pairs = np.pad(counts, (0, len(counts) % 2)).reshape(-1, 2)
    return pairs[:, 0] + pairs[:, 1]


class _Counter:
    """Counts the rows of one tensor.

    A row at a time stays in the processor's cache, where a whole batch does not: four times faster
    than ``torch.histc``.
    """

    def __init__(self, rows: Tensor, num_bins: int, width: float, *, signed: bool) -> None:
        self._num_bins, self._signed = num_bins, signed
        self._bins_per_unit = 0.0 if width == 0.0 else 1.0 / width
        self._places = torch.empty_like(rows[0])
        self._bins = torch.empty_like(rows[0], dtype=torch.int32)

    def __call__(self, row: Tensor) -> Counts:
        """(n,) values to (num_bins,) counts; to their number, (1,), before there are bins."""
        if self._num_bins == 0:
            return np.array([row.numel()])
        torch.mul(row, self._bins_per_unit, out=self._places)
        if self._signed:
            self._places.abs_()
        self._bins.copy_(self._places)
        counts: Counts = torch.bincount(self._bins, minlength=self._num_bins).cpu().numpy()
        # The maximum lies on the last edge, and belongs to the bin below it.
        counts[self._num_bins - 1] += counts[self._num_bins :].sum()
        return counts[: self._num_bins]
