"""How sure an average precision is: bootstrap over images, paired between two predictors.

Detections are matched to objects once; a resample only counts every image anew. An interval of a
difference is drawn from the same resamples for both predictors: what makes an image hard for one
makes it hard for the other too, and cancels (Efron and Tibshirani, "An Introduction to the
Bootstrap", 1993, chapters 8 and 13).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from quantpipe.evaluation.average_precision import Counts, Floats, MatchedDetections


@dataclass(frozen=True, kw_only=True)
class Interval:
    """A value, and the middle ``level`` of what resamples of the images give for it."""

    value: float
    low: float
    high: float
    level: float = 0.95


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
