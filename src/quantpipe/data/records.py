"""From boxes as they are annotated to image records: all boxes of a set at once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from quantpipe.data.dataset import ImageRecord
from quantpipe.data.faults import Findings


class FoundImage(NamedTuple):
    """An image file, and its size in pixels once upright."""

    image_id: int
    path: Path
    width: int
    height: int


@dataclass(frozen=True, kw_only=True)
class Annotations:
    """The n boxes of a data set, in any order.

    Attributes:
        owners: (n,) int64, the place of each box's image among those found.
        boxes: (n, 4) float64 x1, y1, x2, y2 pixels of the upright image, as annotated.
        labels: (n,) int64.
        areas: (n,) float64 square pixels as annotated; NaN takes that of the box.
        crowd: (n,) bool.
        where: Names a box in messages.
    """

    owners: NDArray[np.int64]
    boxes: NDArray[np.float64]
    labels: NDArray[np.int64]
    areas: NDArray[np.float64]
    crowd: NDArray[np.bool_]
    where: Callable[[int], str]


def build_records(
    images: Sequence[FoundImage], annotations: Annotations, findings: Findings
) -> list[ImageRecord]:
    """Returns a record of each image, with its boxes in the order in which they stand.

    Raises:
        DataError: In strict mode, if a box is neither inside its image nor off by rounding.
    """
    sizes = np.array([(image.width, image.height) for image in images], dtype=np.float64)
    sizes = sizes.reshape(-1, 2)[annotations.owners]
    boxes, kept = findings.fit_boxes(annotations.boxes, sizes, annotations.where)
    of_boxes = np.prod(boxes[:, 2:] - boxes[:, :2], axis=1)
    areas = np.where(np.isnan(annotations.areas), of_boxes, annotations.areas).astype(np.float32)
    order = np.argsort(annotations.owners, kind="stable")
    ordinary = order[kept[order] & ~annotations.crowd[order]]
    crowds = order[kept[order] & annotations.crowd[order]]
    corners = boxes.astype(np.float32)
    parts = (
        _shares(annotations.owners, ordinary, corners, len(images)),
        _shares(annotations.owners, ordinary, annotations.labels, len(images)),
        _shares(annotations.owners, ordinary, areas, len(images)),
        _shares(annotations.owners, crowds, corners, len(images)),
        _shares(annotations.owners, crowds, annotations.labels, len(images)),
    )
    return [
        ImageRecord(
            image_id=image.image_id,
            path=image.path,
            width=image.width,
            height=image.height,
            boxes=of_image[0],
            labels=of_image[1],
            areas=of_image[2],
            crowd_boxes=of_image[3],
            crowd_labels=of_image[4],
        )
        for image, *of_image in zip(images, *parts, strict=True)
    ]


def _shares(
    owners: NDArray[np.int64], chosen: NDArray[np.int64], values: NDArray[Any], num_images: int
) -> list[NDArray[Any]]:
    """The chosen values of each image; ``chosen`` is in order of the images."""
    ends = np.searchsorted(owners[chosen], np.arange(num_images + 1)).tolist()
    whole = values[chosen]
    return [whole[start:end] for start, end in pairwise(ends)]
