"""The degradation by each operation on a set of images, and how sure a ranking by it is."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata

from quantpipe.errors import DataError, NumericalError

Floats = NDArray[np.float64]
Counts = NDArray[np.int64]

_NUM_HALVINGS = 10
_NUM_RESAMPLES = 100


class Degradation(Protocol):
    """The degradation by K operations, larger is worse, as a function of the images counted."""

    @property
    def num_images(self) -> int:
        """N."""
        ...

    def resampled(self, multiplicities: Counts) -> Floats:
        """Returns the degradation, (R, K), where every image counts as often as (R, N) say."""
        ...

    def standard_errors(self, *, seed: int) -> Floats | None:
        """Returns the standard error over the images, (K,); None where one image is all."""
        ...


@dataclass(frozen=True, kw_only=True, eq=False)
class MeanDegradation:
    """A mean over images: ``values`` (K, N)."""

    values: Floats

    @property
    def num_images(self) -> int:
        """N."""
        return int(self.values.shape[1])

    def resampled(self, multiplicities: Counts) -> Floats:
        """Returns the means, (R, K)."""
        means: Floats = multiplicities @ self.values.T / multiplicities.sum(axis=1, keepdims=True)
        return means

    def standard_errors(self, *, seed: int) -> Floats | None:  # noqa: ARG002
        """Returns s / sqrt(N) with s the standard deviation over the images."""
        if self.num_images < 2:
            return None
        spread: Floats = self.values.std(axis=1, ddof=1) / math.sqrt(self.num_images)
        return spread


def mean_degradation(values: Mapping[str, Sequence[float]]) -> MeanDegradation:
    """Returns the degradation of operations from one number for each of them and each image.

    Raises:
        DataError: There is no image.
        NumericalError: A number is none; names the image and the operation.
    """
    table = np.array(list(values.values()), dtype=np.float64)
    if table.size == 0:
        raise DataError("there is no image to rank the operations with")
    for name, row in zip(values, table, strict=True):
        if not np.isfinite(row).all():
            image = int(np.argmin(np.isfinite(row)))
            raise NumericalError(f"image {image} gives a NaN or an infinity for operation '{name}'")
    return MeanDegradation(values=table)


def bootstrap_errors(degradation: Degradation, *, seed: int) -> Floats:
    """Returns the standard deviation of the degradation over resamples of the images, (K,).

    Efron and Tibshirani, "An Introduction to the Bootstrap", 1993, algorithm 6.1.
    """
    count = degradation.num_images
    rng = np.random.default_rng(seed)
    drawn = rng.multinomial(count, np.full(count, 1 / count), size=_NUM_RESAMPLES)
    spread: Floats = degradation.resampled(drawn).std(axis=0, ddof=1)
    return spread


def reliability(degradation: Degradation, *, seed: int) -> float | None:
    """Returns how well two halves of the images agree on the ranking.

    The mean over random halvings of Spearman's rank correlation, 1 for the same order and about 0
    for noise. It is the plain one: as all images together rank better than half of them, it is a
    lower estimate for the ranking that is used. None for fewer than two images.
    """
    num_images = degradation.num_images
    if num_images < 2:
        return None
    rng = np.random.default_rng(seed)
    first = np.zeros((_NUM_HALVINGS, num_images), dtype=np.int64)
    second = np.zeros_like(first)
    for row in range(_NUM_HALVINGS):
        order, half = rng.permutation(num_images), num_images // 2
        first[row, order[:half]] = 1
        second[row, order[half : 2 * half]] = 1
    pairs = zip(degradation.resampled(first), degradation.resampled(second), strict=True)
    return float(np.mean([spearman(one, other) for one, other in pairs]))


def spearman(first: Floats, second: Floats) -> float:
    """Returns Spearman's rank correlation; ties share their mean rank, a constant gives 0."""
    ranks = rankdata(np.stack([first, second]), axis=1)
    centered = ranks - ranks.mean(axis=1, keepdims=True)
    norm = math.sqrt(float((centered[0] ** 2).sum() * (centered[1] ** 2).sum()))
    return float(centered[0] @ centered[1]) / norm if norm > 0 else 0.0
