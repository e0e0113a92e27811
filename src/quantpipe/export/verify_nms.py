"""Whether the suppression inside a graph keeps what the one outside would keep."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from quantpipe.errors import ArtifactError
from quantpipe.export.verify import FloatArray, unoptimized_outputs

# An overlap this close to the threshold may fall on either side of it.
_OVERLAP = 1e-4
_SCORE = 1e-5
_PIXELS = 1e-3

Suppress = Callable[[FloatArray, float], list[FloatArray]]
"""Predictions (B, A, 5 + C) and an overlap to rows (n, 6) of each image, the best first."""


def verify_nms(
    path: Path,
    images: FloatArray,
    predictions: FloatArray,
    suppress: Suppress,
    *,
    iou: float,
    max_detections: int,
) -> int:
    """Compares the detections of a graph with those that its own predictions lead to elsewhere.

    A detection that one of them lacks passes only where it hangs on an overlap at the threshold, or
    on a score equal to the last one that ``max_detections`` admits.

    Args:
        path: A graph that hands out detections.
        images: (B, 3, H, W), as the network takes them.
        predictions: What the graph predicted for them before suppression was appended.
        suppress: Gives x1, y1, x2, y2 in pixels, score and label.
        iou: The overlap that the graph allows.
        max_detections: As many as the graph hands out.

    Returns:
        The number of detections compared.

    Raises:
        ArtifactError: They differ.
    """
    outputs = unoptimized_outputs(path)(images)
    found = [_rows(path, *arrays) for arrays in zip(*outputs, strict=True)]
    overlaps = (iou, iou - _OVERLAP, iou + _OVERLAP)
    expected = [suppress(predictions, overlap) for overlap in overlaps]
    for number, (rows, *references) in enumerate(zip(found, *expected, strict=True)):
        last = max(_last_score(each, max_detections) for each in (rows, *references))
        always = [row for row in references[0] if all(_holds(r, row) for r in references[1:])]
        missing = [row for row in always if row[4] > last and not _holds(rows, row)]
        added = [r for r in rows if r[4] > last and not any(_holds(ref, r) for ref in references)]
        if missing or added:
            raise ArtifactError(
                f"its detections of image {number} are not those of its predictions: "
                f"{len(missing)} are missing, {len(added)} are others",
                path=path.name,
            )
    return sum(len(rows) for rows in found)


def _rows(
    path: Path,
    count: NDArray[np.generic],
    boxes: NDArray[np.generic],
    scores: NDArray[np.generic],
    labels: NDArray[np.generic],
) -> FloatArray:
    """The detections of one image as (n, 6)."""
    rows = np.concatenate([boxes, scores[:, None], labels[:, None]], axis=1, dtype=np.float32)
    number = int(count[0])
    if rows[number:].any():
        raise ArtifactError(f"is not zero behind the {number} detections of an image", path=path)
    return rows[:number]


def _last_score(rows: FloatArray, max_detections: int) -> float:
    """The score that a row has to exceed for its place not to depend on the order of equals."""
    return float(rows[-1, 4]) + _SCORE if len(rows) == max_detections else -np.inf


def _holds(rows: FloatArray, row: FloatArray) -> bool:
    size = np.abs(row[:4]).max(initial=1.0)
    limits = np.array([*[_PIXELS * max(1.0, size / 1e3)] * 4, _SCORE, 0.0], dtype=np.float32)
    return bool((np.abs(rows - row) <= limits).all(axis=1).any())
