"""COCO's average precision of matched detections, where every image may count several times.

Precision falls between two true positives and never rises there, so the best precision at a recall
or any higher one is found at true positives alone: of all other detections only their number
between one and the next matters. A thousand resamples of the images are a matrix product and a few
sums over the true positives.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

from quantpipe.evaluation.matching import Matches

_NUM_RECALLS = 101  # 0.00, 0.01, ..., 1.00
_STEP = 0.01
# Numbers that are held at once for each resample's true positives: bounds the memory.
_MOST_NUMBERS = 1 << 22

Counts = NDArray[np.int64]
Floats = NDArray[np.float64]


class AveragePrecision(NamedTuple):
    """A fraction of one: at IoU 0.50, and the mean over 0.50:0.95."""

    map50: float
    map: float


@dataclass(frozen=True, kw_only=True, eq=False)
class MatchedDetections:
    """What one predictor found on a set of images, matched to the objects there.

    A row is a detection that finds an object at a threshold at least; rows are in order of their
    class, the most confident first.

    Attributes:
        num_images: I.
        ends: (C,) the row after the last one of each class.
        image: (rows,) the position of each row's image.
        hit: (T, rows) whether it finds one at each threshold.
        between: (rows, I) how many detections of each image came since the row before, itself
            included, that count at every threshold.
        doubtful: For each threshold (rows, I): likewise, those that count at this threshold but not
            at every; None where there are none.
        num_objects: (C, I) of each class in each image.
    """

    num_images: int
    ends: NDArray[np.intp]
    image: NDArray[np.intp]
    hit: NDArray[np.bool_]
    between: csr_array
    doubtful: tuple[csr_array | None, ...]
    num_objects: csr_array

    def average_precision(self, multiplicity: Counts | None = None) -> AveragePrecision:
        """Returns mAP50 and mAP 50:95 as COCO defines them.

        Args:
            multiplicity: (images,) how often each image counts; None for once each.
        """
        once = np.ones(self.num_images, dtype=np.int64)
        by_class, shown = self._by_class((once if multiplicity is None else multiplicity)[None])
        by_threshold = by_class[shown[:, 0], :, 0]
        if not len(by_threshold):
            return AveragePrecision(map50=0.0, map=0.0)
        return AveragePrecision(
            map50=float(by_threshold[:, 0].mean()), map=float(by_threshold.mean())
        )

    def by_class(self) -> Floats:
        """Returns (C, T) average precision; NaN for classes of which there is no object."""
        precision, shown = self._by_class(np.ones((1, self.num_images), dtype=np.int64))
        return np.where(shown, precision[..., 0], np.nan)

    def resampled(self, multiplicities: Counts) -> Floats:
        """Returns mAP 50:95 of every resample, (R,), from (R, images) multiplicities."""
        step = max(1, _MOST_NUMBERS // max(len(self.image), self.num_images, 1))
        parts = range(0, len(multiplicities), step)
        return np.concatenate([self._mean(multiplicities[i : i + step]) for i in parts])

    def _mean(self, multiplicities: Counts) -> Floats:
        """(R,): the mean over thresholds and the classes that a resample shows."""
        precision, shown = self._by_class(multiplicities)
        total = np.where(shown, precision.mean(axis=1), 0.0).sum(axis=0)
        mean: Floats = total / np.maximum(shown.sum(axis=0), 1)
        return mean

    def _by_class(self, multiplicities: Counts) -> tuple[Floats, NDArray[np.bool_]]:
        """(C, T, R) average precision, and (C, R) whether there is an object of the class."""
        times = np.ascontiguousarray(multiplicities.T, dtype=np.float64)
        num_objects = self.num_objects @ times
        counted = self.between @ times
        doubtful = [None if one is None else one @ times for one in self.doubtful]
        found = np.zeros((len(self.ends), len(self.hit), times.shape[1]))
        for label, rows in self._rows():
            every = np.cumsum(counted[rows], axis=0)
            objects = np.maximum(num_objects[label], 1.0)
            for threshold, hit in enumerate(self.hit[:, rows]):
                extra = doubtful[threshold]
                total = every if extra is None else every + np.cumsum(extra[rows], axis=0)
                hits = np.cumsum(times[self.image[rows][hit]], axis=0)
                found[label, threshold] = _averaged(hits, total[hit], objects)
        return found, num_objects > 0

    def _rows(self) -> Iterator[tuple[int, slice]]:
        """The rows of every class that has any."""
        starts = np.concatenate(([0], self.ends[:-1]))
        for label in np.flatnonzero(self.ends > starts):
            yield int(label), slice(int(starts[label]), int(self.ends[label]))


def condensed(matches: Matches, *, num_images: int, num_classes: int) -> MatchedDetections:
    """Returns what average precision needs of matches."""
    is_row = matches.hit.any(axis=0)
    never = matches.ignored.all(axis=0)
    always = ~matches.ignored.any(axis=0)
    ends = np.cumsum(np.bincount(matches.label[is_row], minlength=num_classes))
    # The row that each detection is or comes before; past the last of its class it has no effect.
    row: NDArray[np.intp] = np.cumsum(is_row) - is_row
    before_row = row < ends[matches.label]
    shape = int(is_row.sum()), num_images

    def counted(which: Any) -> csr_array:
        return _counts(row[which & before_row], matches.image[which & before_row], shape)

    sometimes = ~always & ~never
    doubtful: NDArray[np.bool_] = sometimes & ~matches.ignored
    return MatchedDetections(
        num_images=num_images,
        ends=ends,
        image=matches.image[is_row],
        hit=matches.hit[:, is_row],
        between=counted(always),
        doubtful=tuple(counted(here) if here.any() else None for here in doubtful),
        num_objects=_counts(matches.object_label, matches.object_image, (num_classes, num_images)),
    )


def _counts(rows: NDArray[np.intp], columns: NDArray[np.intp], shape: tuple[int, int]) -> csr_array:
    """How often each place is named."""
    return csr_array((np.ones(len(rows)), (rows, columns)), shape=shape)


def _averaged(hits: Floats, counted: Floats, num_objects: Floats) -> Floats:
    """(R,): precision averaged over the recalls.

    Args:
        hits: (rows, R) true positives so far, at each of them.
        counted: (rows, R) likewise all detections that count.
        num_objects: (R,) at least 1.
    """
    if not len(hits):
        return np.zeros(len(num_objects))
    precision = hits / np.maximum(counted, 1.0)
    # The best precision at this recall or any higher one.
    best = np.maximum.accumulate(precision[::-1], axis=0)[::-1]
    reached = _recalls_up_to(hits / num_objects)
    averaged: Floats = (best * np.diff(reached, axis=0, prepend=0.0)).sum(axis=0) / _NUM_RECALLS
    return averaged


def _recalls_up_to(recall: Floats) -> Floats:
    """How many of the 101 recalls are no higher, each as ``numpy.linspace`` rounds it."""
    last = np.floor(recall * (_NUM_RECALLS - 1))
    return last + 1.0 + ((last + 1.0) * _STEP <= recall) - (last * _STEP > recall)
