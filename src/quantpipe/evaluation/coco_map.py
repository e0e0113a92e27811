"""COCO average precision of boxes (Lin et al., "Microsoft COCO", arXiv 1405.0312, section 5)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from quantpipe.errors import DataError
from quantpipe.evaluation.average_precision import MatchedDetections, condensed
from quantpipe.evaluation.image_detections import ImageDetections, in_columns
from quantpipe.evaluation.matching import (
    ALL_AREAS,
    IOU_THRESHOLDS,
    LARGE,
    MEDIUM,
    SMALL,
    AreaRange,
    match,
)
from quantpipe.evaluation.objects import Objects

_IOU_75 = int(np.argmin(np.abs(IOU_THRESHOLDS - 0.75)))


@dataclass(frozen=True, kw_only=True)
class MapResult:
    """COCO average precision, as fractions of one.

    ``small``, ``medium`` and ``large`` (areas below 32^2, below 96^2 and above, in original
    pixels) are None where the images hold no such object or sizes were not asked for.
    ``per_class`` holds AP 50:95 by class name, for the classes that the images show.
    """

    map: float
    map50: float
    map75: float
    small: float | None
    medium: float | None
    large: float | None
    per_class: Mapping[str, float]
    num_images: int


def matched_detections(found: Sequence[ImageDetections], objects: Objects) -> MatchedDetections:
    """Matches detections to the objects of their images, once for all that is asked of them.

    Args:
        found: One record an image, in the order that multiplicities refer to.
        objects: Of these images and maybe others. Crowds are ignored as COCO does.

    Raises:
        DataError: There is no image, the images show no object, or one is not in ``objects``.
        NumericalError: A box or a score is NaN or infinite (COCO would score it 1.0).
    """
    (matched,) = _matched(found, objects, (ALL_AREAS,))
    return matched


def score(
    found: Sequence[ImageDetections], objects: Objects, *, by_size: bool = False
) -> MapResult:
    """Returns the average precision of detections over their own images.

    Args:
        found: One record an image.
        objects: Of these images and maybe others.
        by_size: Whether to score small, medium and large objects too.

    Raises:
        DataError: There is no image, the images show no object, or one is not in ``objects``.
        NumericalError: A box or a score is NaN or infinite.
    """
    ranges = (ALL_AREAS, SMALL, MEDIUM, LARGE) if by_size else (ALL_AREAS,)
    matched, *sizes = _matched(found, objects, ranges)
    return summarized(found, matched, objects.class_names, sizes)


def summarized(
    found: Sequence[ImageDetections],
    matched: MatchedDetections,
    class_names: Sequence[str],
    sizes: Sequence[MatchedDetections] = (),
) -> MapResult:
    """Returns the average precision of matched detections.

    Args:
        found: What was matched.
        matched: To all objects.
        class_names: By label.
        sizes: Matched to small, medium and large ones, where those are wanted.
    """
    by_class = matched.by_class()
    shown = by_class[~np.isnan(by_class[:, 0])]
    small, medium, large = (_mean(size) for size in sizes) if sizes else (None, None, None)
    return MapResult(
        map=float(shown.mean()),
        map50=float(shown[:, 0].mean()),
        map75=float(shown[:, _IOU_75].mean()),
        small=small,
        medium=medium,
        large=large,
        per_class={
            name: float(row.mean())
            for name, row in zip(class_names, by_class, strict=True)
            if not np.isnan(row[0])
        },
        num_images=len(found),
    )


def _matched(
    found: Sequence[ImageDetections], objects: Objects, ranges: Sequence[AreaRange]
) -> list[MatchedDetections]:
    detections = in_columns(found)
    own = objects.of_images(detections.image_ids)
    if own.crowd.all():
        raise DataError(
            f"nothing to evaluate: no object is marked in the {len(found)} images",
            hint="evaluate on images that have annotations",
        )
    return [
        condensed(matches, num_images=len(found), num_classes=len(own.class_names))
        for matches in match(detections, own, ranges)
    ]


def _mean(matched: MatchedDetections) -> float | None:
    by_class = matched.by_class()
    shown = by_class[~np.isnan(by_class)]
    return float(shown.mean()) if shown.size else None
