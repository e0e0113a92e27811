"""Boxes of COCO outlines: of polygons, and of masks in run lengths."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import chain
from typing import Any

import numpy as np
from pycocotools import mask

_NO_BOX = (math.nan, math.nan, math.nan, math.nan)
_LARGEST = 1 << 16  # pixels of a mask's side

Box = tuple[float, float, float, float]


def outline_box(segmentation: object) -> Box:
    """Returns the x, y, width, height around a COCO ``segmentation``; NaN where it is none.

    Args:
        segmentation: A list of polygons ``[x1, y1, x2, y2, ...]``, or one such polygon, or
            polygons of points ``[x, y]``, as some tools write them; or a mask of ``size`` (height,
            width) and ``counts``, a list or COCO's compressed text.
    """
    if isinstance(segmentation, list):
        return _around(segmentation)
    if isinstance(segmentation, Mapping):
        return _around_mask(segmentation.get("size"), segmentation.get("counts"))
    return _NO_BOX


def _around(polygons: Sequence[Any]) -> Box:
    if not any(isinstance(polygon, list) for polygon in polygons):
        polygons = [polygons]
    elif all(isinstance(polygon, list) and _of_lists(polygon) for polygon in polygons):
        polygons = list(chain.from_iterable(polygons))
    if not all(isinstance(polygon, list) and len(polygon) % 2 == 0 for polygon in polygons):
        return _NO_BOX
    numbers = list(chain.from_iterable(polygons))
    if len(numbers) < 6 or not set(map(type, numbers)) <= {int, float}:
        return _NO_BOX
    try:
        points = np.array(numbers, dtype=np.float64).reshape(-1, 2)
    except OverflowError:
        return _NO_BOX
    (x1, y1), (x2, y2) = points.min(axis=0).tolist(), points.max(axis=0).tolist()
    return x1, y1, x2 - x1, y2 - y1


def _of_lists(polygon: Sequence[Any]) -> bool:
    return bool(polygon) and all(isinstance(point, list) for point in polygon)


def _around_mask(size: Any, counts: Any) -> Box:
    sized = isinstance(size, list) and len(size) == 2
    if not sized or not all(type(side) is int and 0 < side <= _LARGEST for side in size):
        return _NO_BOX
    if isinstance(counts, list) and _fills(counts, size[0] * size[1]):
        encoded = mask.frPyObjects({"size": size, "counts": counts}, *size)
    elif isinstance(counts, str) and _is_compressed(counts):
        encoded = {"size": size, "counts": counts.encode("ascii")}
    else:
        return _NO_BOX
    x, y, width, height = mask.toBbox(encoded).tolist()
    return x, y, width, height


def _fills(counts: Sequence[Any], num_pixels: int) -> bool:
    return all(type(count) is int and count >= 0 for count in counts) and sum(counts) == num_pixels


def _is_compressed(text: str) -> bool:
    """Whether pycocotools can read it: six bits a character, and the last one ends a number.

    It looks for that end without looking for the end of the text.
    """
    codes = [ord(character) - 48 for character in text]
    return bool(codes) and all(0 <= code < 64 for code in codes) and not codes[-1] & 0x20
