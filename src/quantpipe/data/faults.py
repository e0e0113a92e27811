"""Faults of a data set: counted, named in a line each, and refused where they are too many."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import final

import numpy as np
from numpy.typing import NDArray

from quantpipe.errors import DataError

_SHOWN = 20  # of the bad images, in the one line of the error
_ROUNDING = 0.5  # a box may pass the border by this many pixels: annotations are rounded


@final
class Findings:
    """Collects the faults that a reader meets.

    Args:
        source: The annotation file or folder that errors name.
        strict: Whether a record that could be mended is an error.
        max_bad_images: How many images may be left out.
    """

    def __init__(self, source: Path, *, strict: bool, max_bad_images: int):
        self._source = source
        self._strict = strict
        self._max_bad_images = max_bad_images
        self._bad_images: list[str] = []
        self._notes: list[str] = []
        self.counts: Counter[str] = Counter(clipped=0, dropped=0, bad_images=0)

    @property
    def notes(self) -> tuple[str, ...]:
        """One line for each fault so far."""
        return tuple(self._notes)

    def mend(self, kind: str, line: str) -> None:
        """Counts a record that was mended or dropped.

        Raises:
            DataError: In strict mode.
        """
        if self._strict:
            raise DataError(line, path=self._source, hint="mend the file or read with strict=false")
        self.counts[kind] += 1
        self._notes.append(line)

    def bad_image(self, name: str, cause: str) -> None:
        """Remembers an image that has to be left out."""
        self.counts["bad_images"] += 1
        self._bad_images.append(f"{name} ({cause})")
        self._notes.append(f"image {name} skipped: {cause}")

    def finish(self, num_images: int, num_boxes: int) -> None:
        """Checks the totals, once everything was read.

        Raises:
            DataError: More bad images than allowed, or nothing left to learn from.
        """
        bad = self._bad_images
        if len(bad) > self._max_bad_images:
            more = f" and {len(bad) - _SHOWN} more" if len(bad) > _SHOWN else ""
            raise DataError(
                f"{len(bad)} bad images, {self._max_bad_images} allowed: "
                f"{', '.join(bad[:_SHOWN])}{more}",
                path=self._source,
                hint="replace or remove them, or raise max_bad_images",
            )
        if num_images == 0 or num_boxes == 0:
            raise DataError(
                f"the data set is empty ({num_images} images, {num_boxes} boxes)",
                path=self._source,
                hint="check the folder and the annotations",
            )

    def fit_boxes(
        self, boxes: NDArray[np.float64], *, width: int, height: int, where: list[str]
    ) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
        """Clips boxes to the image and tells which are worth keeping.

        Args:
            boxes: (n, 4) x1, y1, x2, y2 pixels, as annotated.
            width: Of the image, pixels.
            height: Of the image, pixels.
            where: The name of each record, for messages.

        Returns:
            The clipped (n, 4) boxes and (n,) whether each is finite and has an area.

        Raises:
            DataError: In strict mode, if a box is neither inside the image nor off by rounding.
        """
        limits = np.array([width, height, width, height], dtype=np.float64)
        inside = np.clip(boxes, 0.0, limits)
        kept: NDArray[np.bool_] = np.logical_and.reduce(np.isfinite(boxes), axis=1)
        for corners in (boxes, inside):  # both: clipping can give an inverted box an area
            kept &= np.logical_and.reduce(corners[:, 2:] > corners[:, :2], axis=1)
        with np.errstate(invalid="ignore"):
            moved = kept & (np.abs(boxes - inside).max(axis=1, initial=0.0) > _ROUNDING)
        for index in np.flatnonzero(~kept | moved):
            box = ", ".join(f"{value:g}" for value in boxes[index])
            line = f"{where[index]}: box ({box}) in an image of {width}x{height}"
            if kept[index]:
                self.mend("clipped", f"{line} clipped")
            else:
                self.mend("dropped", f"{line} dropped")
        return inside, kept
