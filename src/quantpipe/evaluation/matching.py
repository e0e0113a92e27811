"""Which detection finds which object, as COCO's evaluation decides it, for all images at once.

In each image and class the detections choose in turn, the most confident first: of the objects that
are free and overlap enough, the one that overlaps most, and one that is to be ignored (a crowd, or
outside the range of areas) only where there is no other (Lin et al., "Microsoft COCO", arXiv
1405.0312, section 5; the reference is pycocotools, with which the tests compare). Only detections
of one image and class wait for each other, so those of equal rank choose together, at every
threshold and in every range of areas.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from quantpipe.evaluation.image_detections import Detections
from quantpipe.evaluation.objects import Objects

IOU_THRESHOLDS = np.linspace(0.5, 0.95, 10)
MOST_DETECTIONS = 100
"""Of each class in an image; COCO leaves the less confident out."""

AreaRange = tuple[float, float]
ALL_AREAS: AreaRange = (0.0, 1e10)
SMALL, MEDIUM, LARGE = (0.0, 32.0**2), (32.0**2, 96.0**2), (96.0**2, 1e10)

# Pairs of a detection and an object that are compared at once: bounds the memory, some tens of MiB.
_MOST_PAIRS = 1 << 19


@dataclass(frozen=True, kw_only=True, eq=False)
class Matches:
    """What D detections found of N objects on I images, at T thresholds.

    Detections are in order of their label, then the most confident first, then by image id.

    Attributes:
        image: (D,) the position of each detection's image.
        label: (D,)
        hit: (T, D) whether it found an object that counts.
        ignored: (T, D) whether it counts neither as found nor as wrong.
        object_image: (M,) likewise of the objects that count.
        object_label: (M,)
    """

    image: NDArray[np.intp]
    label: NDArray[np.intp]
    hit: NDArray[np.bool_]
    ignored: NDArray[np.bool_]
    object_image: NDArray[np.intp]
    object_label: NDArray[np.intp]


def match(
    detections: Detections, objects: Objects, ranges: Sequence[AreaRange] = (ALL_AREAS,)
) -> list[Matches]:
    """Matches detections to the objects of the same images, for each range of areas.

    Args:
        detections: Of which the :data:`MOST_DETECTIONS` most confident of a class in an image take
            part.
        objects: Of the same images, in the same order.
        ranges: Square pixels, both ends inside; an object outside is ignored, and a detection
            outside that finds nothing.
    """
    chosen, rank = _ranked(detections)
    found = _Choice(detections, objects, ranges, chosen, rank)
    for pairs in found.pairs_by_rank():
        found.choose(pairs)
    return [found.matches(place) for place in range(len(ranges))]


def _ranked(detections: Detections) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Indices of those that take part, in the order of :class:`Matches`, and their ranks."""
    ids, image, label = detections.image_ids, detections.image, detections.label
    # All sorts are stable: of equals the one that was given first comes first, as in pycocotools.
    order = np.lexsort((-detections.score, image, label))
    group = label[order] * max(len(ids), 1) + image[order]
    new = np.flatnonzero(np.diff(group, prepend=-1))
    rank = np.arange(len(order)) - np.repeat(new, np.diff(new, append=len(order)))
    order, rank = order[rank < MOST_DETECTIONS], rank[rank < MOST_DETECTIONS]
    last = np.lexsort((ids[image[order]], -detections.score[order], label[order]))
    return order[last], rank[last]


@dataclass(frozen=True, kw_only=True, eq=False)
class _Pairs:
    """Detections (sorted) and objects of the same image and class that overlap enough to match."""

    detection: NDArray[np.intp]
    object: NDArray[np.intp]
    iou: NDArray[np.float64]

    def part(self, which: NDArray[np.intp] | slice) -> _Pairs:
        return _Pairs(
            detection=self.detection[which], object=self.object[which], iou=self.iou[which]
        )


class _Choice:
    """Who has chosen what so far."""

    def __init__(
        self,
        detections: Detections,
        objects: Objects,
        ranges: Sequence[AreaRange],
        chosen: NDArray[np.intp],
        rank: NDArray[np.intp],
    ):
        self._image, self._label = detections.image[chosen], detections.label[chosen]
        self._box, self._rank = detections.box[chosen], rank
        self._objects = objects
        limits = np.array(ranges)
        self._ignored = objects.crowd | _outside(objects.area, limits)
        area = self._box[:, 2] * self._box[:, 3]
        self._outside = _outside(area, limits)
        shape = len(ranges), len(IOU_THRESHOLDS)
        self._taken = np.zeros((*shape, len(objects.area)), dtype=np.bool_)
        self._matched = np.zeros((*shape, len(chosen)), dtype=np.bool_)
        self._in_ignored = np.zeros((*shape, len(chosen)), dtype=np.bool_)

    def pairs_by_rank(self) -> Iterator[_Pairs]:
        """Yields the pairs of the most confident detections of all groups, then the next ones."""
        parts = [part for part in self._overlapping() if len(part.iou)]
        if not parts:
            return
        pairs = _Pairs(
            detection=np.concatenate([part.detection for part in parts]),
            object=np.concatenate([part.object for part in parts]),
            iou=np.concatenate([part.iou for part in parts]),
        )
        rank = self._rank[pairs.detection]
        pairs, rank = pairs.part(order := np.argsort(rank, kind="stable")), rank[order]
        ends = np.flatnonzero(np.diff(rank, append=-1)) + 1
        for start, end in zip((0, *ends[:-1]), ends, strict=True):
            yield pairs.part(slice(start, end))

    def choose(self, pairs: _Pairs) -> None:
        """Lets every detection of ``pairs`` choose; no two of them share an object."""
        heads = np.flatnonzero(np.diff(pairs.detection, prepend=-1))
        free = ~self._taken[..., pairs.object] | self._objects.crowd[pairs.object]
        able = free & (pairs.iou >= IOU_THRESHOLDS[:, None])
        ignored = self._ignored[:, None, pairs.object]
        counting = _last_largest(able & ~ignored, pairs.iou, heads)
        place = np.where(counting >= 0, counting, _last_largest(able & ignored, pairs.iou, heads))
        area, threshold, group = np.nonzero(place >= 0)
        pair = place[area, threshold, group]
        detection, found = pairs.detection[pair], pairs.object[pair]
        self._taken[area, threshold, found] = True
        self._matched[area, threshold, detection] = True
        self._in_ignored[area, threshold, detection] = self._ignored[area, found]

    def matches(self, place: int) -> Matches:
        """What was chosen in the range of areas at ``place``."""
        matched = self._matched[place]
        ignored = self._in_ignored[place] | (~matched & self._outside[place])
        counts = ~self._ignored[place]
        return Matches(
            image=self._image,
            label=self._label,
            hit=matched & ~ignored,
            ignored=ignored,
            object_image=self._objects.image[counts],
            object_label=self._objects.label[counts],
        )

    def _overlapping(self) -> Iterator[_Pairs]:
        """Pairs that overlap by the lowest threshold or more, by detection, objects as given."""
        num_images = max(len(self._objects.image_ids), 1)
        group = self._objects.label * num_images + self._objects.image
        order = np.argsort(group, kind="stable")
        own = self._label * num_images + self._image
        first = np.searchsorted(group[order], own, side="left")
        count = np.searchsorted(group[order], own, side="right") - first
        ends = np.cumsum(count)
        start = 0
        while start < len(count):
            before = ends[start - 1] if start else 0
            stop = max(int(np.searchsorted(ends, before + _MOST_PAIRS, side="right")), start + 1)
            part = slice(start, stop)
            detection = np.repeat(np.arange(start, stop), count[part])
            offset = np.arange(len(detection)) - np.repeat(
                ends[part] - count[part] - before, count[part]
            )
            found = order[np.repeat(first[part], count[part]) + offset]
            iou = _iou(self._box[detection], self._objects.box[found], self._objects.crowd[found])
            near = iou >= IOU_THRESHOLDS[0]
            yield _Pairs(detection=detection[near], object=found[near], iou=iou[near])
            start = stop


def _outside(area: NDArray[np.float64], limits: NDArray[np.float64]) -> NDArray[np.bool_]:
    """(ranges, n): whether each area is outside of each range."""
    return (area < limits[:, :1]) | (area > limits[:, 1:])


def _iou(
    boxes: NDArray[np.float64], others: NDArray[np.float64], crowd: NDArray[np.bool_]
) -> NDArray[np.float64]:
    """(n,) of x, y, width, height; of a crowd: the share of the box that lies in it."""
    least = np.maximum(boxes[:, :2], others[:, :2])
    most = np.minimum(boxes[:, 2:] + boxes[:, :2], others[:, 2:] + others[:, :2])
    width, height = (most - least).T
    both = width * height
    area = boxes[:, 2] * boxes[:, 3]
    union = np.where(crowd, area, area + others[:, 2] * others[:, 3] - both)
    touching = (width > 0) & (height > 0)
    shares: NDArray[np.float64] = np.divide(both, union, out=np.zeros(len(boxes)), where=touching)
    return shares


def _last_largest(
    able: NDArray[np.bool_], value: NDArray[np.float64], heads: NDArray[np.intp]
) -> NDArray[np.intp]:
    """(..., heads): in each run from a head to the next, the place of the largest, or -1.

    Of equals the last, as in pycocotools.
    """
    values = np.where(able, value, -1.0)
    largest = np.maximum.reduceat(values, heads, axis=-1)
    lengths = np.diff(heads, append=values.shape[-1])
    is_largest = able & (values == np.repeat(largest, lengths, axis=-1))
    places = np.where(is_largest, np.arange(values.shape[-1]), -1)
    found: NDArray[np.intp] = np.maximum.reduceat(places, heads, axis=-1)
    return found
