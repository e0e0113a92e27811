"""How sure an average precision is: bootstrap over images, paired between two predictors.

Detections are matched to objects once; a resample only counts every image anew, so a thousand of
them cost seconds. An interval of a difference is drawn from the same resamples for both predictors:
what makes an image hard for one makes it hard for the other too, and cancels (Efron and Tibshirani,
"An Introduction to the Bootstrap", 1993, chapters 8 and 13).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from quantpipe.evaluation.accuracy import ImageDetections, pseudo_ground_truth
from quantpipe.evaluation.coco_map import CocoEvaluator

_RECALLS = np.linspace(0.0, 1.0, 101)
# Resamples that are counted at once: bounds the memory, some tens of MiB.
_CHUNK = 32

Counts = NDArray[np.int64]
Floats = NDArray[np.float64]


class AveragePrecision(NamedTuple):
    """A fraction of one: at IoU 0.50, and the mean over 0.50:0.95."""

    map50: float
    map: float


@dataclass(frozen=True, kw_only=True)
class Interval:
    """A value, and the middle ``level`` of what resamples of the images give for it."""

    value: float
    low: float
    high: float
    level: float = 0.95


@dataclass(frozen=True, kw_only=True, eq=False)
class _Class:
    """The detections of one class, most confident first, over all images.

    ``hit`` and ``counted`` (IoU thresholds, D): whether each is a true positive, and whether it
    counts at all; ``image`` (D,): position of its image; ``num_objects`` (images,).
    """

    hit: NDArray[np.bool_]
    counted: NDArray[np.bool_]
    image: NDArray[np.intp]
    num_objects: Counts


@dataclass(frozen=True, kw_only=True, eq=False)
class MatchedDetections:
    """What one predictor found on a set of images, matched to the objects there."""

    num_images: int
    _classes: tuple[_Class, ...]

    def average_precision(self, multiplicity: Counts | None = None) -> AveragePrecision:
        """Returns mAP50 and mAP 50:95 as COCO defines them.

        Args:
            multiplicity: (images,) how often each image counts; None for once each.
        """
        once = np.ones(self.num_images, dtype=np.int64)
        times = once if multiplicity is None else multiplicity
        by_threshold = self._by_threshold(times[None])[0]
        return AveragePrecision(map50=float(by_threshold[0]), map=float(by_threshold.mean()))

    def resampled(self, multiplicities: Counts) -> Floats:
        """Returns mAP 50:95 of every resample, (R,), from (R, images) multiplicities."""
        parts = range(0, len(multiplicities), _CHUNK)
        values = [self._by_threshold(multiplicities[i : i + _CHUNK]).mean(axis=1) for i in parts]
        return np.concatenate(values)

    def _by_threshold(self, multiplicities: Counts) -> Floats:
        """(R, IoU thresholds): the mean over the classes that a resample shows."""
        precision = np.stack([_precision(c, multiplicities) for c in self._classes])
        shown = np.stack([multiplicities @ c.num_objects > 0 for c in self._classes])
        total = np.where(shown[..., None], precision, 0.0).sum(axis=0)
        mean: Floats = total / np.maximum(shown.sum(axis=0), 1)[:, None]
        return mean


def matched_detections(
    found: Iterable[ImageDetections],
    ground_truth: Mapping[str, Any],
    category_ids: Sequence[int],
) -> MatchedDetections:
    """Matches detections to the objects of their images.

    Args:
        found: One record an image, in the order that multiplicities refer to.
        ground_truth: A COCO data set in original pixels.
        category_ids: The category id of each label.

    Raises:
        DataError: There is no image, or the images show no object.
    """
    evaluator = CocoEvaluator(ground_truth, category_ids, by_size=False)
    num_images = 0
    for image in found:
        evaluator.add(image.image_id, image.boxes, image.scores, image.labels)
        num_images += 1
    classes = tuple(_of_class(records) for records in evaluator.matches())
    return MatchedDetections(num_images=num_images, _classes=classes)


def matched_agreement(
    reference: Sequence[ImageDetections],
    candidate: Iterable[ImageDetections],
    class_names: Sequence[str],
    *,
    confidence: float = 0.3,
) -> MatchedDetections:
    """As :func:`~quantpipe.evaluation.accuracy.agreement`, ready to be resampled.

    Raises:
        DataError: The reference has no detection above ``confidence``.
    """
    truth = pseudo_ground_truth(reference, class_names, confidence)
    return matched_detections(candidate, truth, [c["id"] for c in truth["categories"]])


def resamples(num_images: int, count: int, *, seed: int) -> Counts:
    """Draws ``count`` resamples of the images with replacement: (count, images) multiplicities."""
    rng = np.random.default_rng(seed)
    return rng.multinomial(num_images, np.full(num_images, 1 / num_images), size=count)


def bootstrap(
    matched: MatchedDetections, *, count: int, seed: int, level: float = 0.95
) -> Interval:
    """Returns mAP 50:95 with its interval."""
    drawn = matched.resampled(resamples(matched.num_images, count, seed=seed))
    return _interval(matched.average_precision().map, drawn, level)


def bootstrap_difference(
    first: MatchedDetections,
    second: MatchedDetections,
    *,
    count: int,
    seed: int,
    level: float = 0.95,
) -> Interval:
    """Returns mAP 50:95 of ``second`` minus that of ``first`` on the same images, in order."""
    assert first.num_images == second.num_images
    drawn = resamples(first.num_images, count, seed=seed)
    difference = second.average_precision().map - first.average_precision().map
    return _interval(difference, second.resampled(drawn) - first.resampled(drawn), level)


def _interval(value: float, drawn: Floats, level: float) -> Interval:
    low, high = np.quantile(drawn, [(1 - level) / 2, (1 + level) / 2])
    return Interval(value=value, low=float(low), high=float(high), level=level)


def _of_class(records: Sequence[Mapping[str, Any] | None]) -> _Class:
    shown = [(place, record) for place, record in enumerate(records) if record is not None]
    num_objects = np.zeros(len(records), dtype=np.int64)
    for place, record in shown:
        num_objects[place] = np.count_nonzero(np.asarray(record["gtIgnore"]) == 0)
    if not shown:
        nothing = np.zeros((1, 0), dtype=np.bool_)
        image = np.zeros(0, dtype=np.intp)
        return _Class(hit=nothing, counted=nothing, image=image, num_objects=num_objects)
    # A stable sort of negated scores, as pycocotools does.
    order = np.argsort(-np.concatenate([r["dtScores"] for _, r in shown]), kind="stable")
    counted = ~np.concatenate([r["dtIgnore"] for _, r in shown], axis=1).astype(np.bool_)
    matched = np.concatenate([r["dtMatches"] for _, r in shown], axis=1) > 0
    image = np.repeat([p for p, _ in shown], [len(r["dtScores"]) for _, r in shown])
    return _Class(
        hit=(matched & counted)[:, order],
        counted=counted[:, order],
        image=image[order].astype(np.intp),
        num_objects=num_objects,
    )


def _precision(found: _Class, multiplicities: Counts) -> Floats:
    """(R, IoU thresholds): precision averaged over 101 recalls, 0 where nothing was found."""
    times = multiplicities[:, None, found.image].astype(np.float64)
    hits = np.cumsum(times * found.hit, axis=2)
    counted = np.cumsum(times * found.counted, axis=2)
    objects = np.maximum(multiplicities @ found.num_objects, 1)
    precision = hits / np.maximum(counted, np.spacing(1))
    # The best precision at this recall or any higher one.
    envelope = np.maximum.accumulate(precision[..., ::-1], axis=2)[..., ::-1]
    recall = hits / objects[:, None, None]
    return np.array(
        [
            [_at_recalls(r, e) for r, e in zip(recalls, envelopes, strict=True)]
            for recalls, envelopes in zip(recall, envelope, strict=True)
        ]
    )


def _at_recalls(recall: Floats, envelope: Floats) -> float:
    places = np.searchsorted(recall, _RECALLS, side="left")
    return float(np.append(envelope, 0.0)[places].mean())
