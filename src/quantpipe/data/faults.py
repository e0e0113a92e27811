"""Faults of a data set: counted, named in a line each, and refused where they are too many."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from itertools import zip_longest
from pathlib import Path
from typing import final

import numpy as np
from numpy.typing import NDArray

from quantpipe.errors import DataError

_SHOWN = 20  # of the bad images, in the one line of the error
_KEPT = 50  # lines of each kind; the rest is only counted
_EMPTYING = ("bad_images", "dropped", "unknown_images")  # what leaves a set empty
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
        self._lines: dict[str, list[str]] = {}
        self.counts: Counter[str] = Counter(clipped=0, dropped=0, bad_images=0)

    @property
    def notes(self) -> tuple[str, ...]:
        """The first lines of every kind of fault: the first of each, then the second of each."""
        rounds = zip_longest(*self._lines.values())
        return tuple(line for each in rounds for line in each if line is not None)

    def mend(self, kind: str, line: str, count: int = 1) -> None:
        """Counts records that were mended or dropped, of which the line tells.

        Raises:
            DataError: In strict mode.
        """
        if self._strict:
            raise DataError(
                line, path=self._source, hint="mend the file or read with data.strict=false"
            )
        self.tell(kind, line, count)

    def tell(self, kind: str, line: str, count: int = 1) -> None:
        """Counts what was left out or guessed and is no fault of a record, strict mode or not."""
        self.counts[kind] += count
        lines = self._lines.setdefault(kind, [])
        if len(lines) < _KEPT:
            lines.append(line)

    def refusal(self, cause: str, hint: str) -> DataError:
        """The error of a set that is read in no mode."""
        return DataError(cause, path=self._source, hint=hint)

    def bad_image(self, name: str, cause: str) -> None:
        """Remembers an image that has to be left out."""
        self._bad_images.append(f"{name} ({cause})")
        self.tell("bad_images", f"image {name} skipped: {cause}")

    def finish(self, contents: Mapping[str, int]) -> None:
        """Checks the totals, once everything was read.

        Args:
            contents: From :func:`~quantpipe.data.dataset.count_contents`.

        Raises:
            DataError: More bad images than allowed, or nothing left to learn from.
        """
        bad = self._bad_images
        if len(bad) > self._max_bad_images:
            raise too_many_bad(bad, self._max_bad_images, self._source)
        require_contents(contents, self._why_empty(contents), self._source)

    def _why_empty(self, contents: Mapping[str, int]) -> str:
        found = {**self.counts, "crowd_boxes": contents["crowd_boxes"]}
        reasons = [f"{count} {kind.replace('_', ' ')}" for kind, count in found.items() if count]
        if not reasons:
            return "no image is listed" if not contents["images"] else "nothing is annotated"
        telling = [self._lines[kind][0] for kind in _EMPTYING if kind in self._lines]
        first = [*telling, *self.notes][:1]
        return ", ".join(reasons) + "".join(f", first: {line}" for line in first)

    def fit_boxes(
        self, boxes: NDArray[np.float64], sizes: NDArray[np.float64], where: Callable[[int], str]
    ) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
        """Clips boxes to their images and tells which are worth keeping.

        Args:
            boxes: (n, 4) x1, y1, x2, y2 pixels, as annotated.
            sizes: (n, 2) width and height of the image of each, pixels.
            where: Names a box in messages.

        Returns:
            The clipped (n, 4) boxes and (n,) whether each is finite and has an area.

        Raises:
            DataError: In strict mode, if a box is neither inside the image nor off by rounding.
        """
        inside = np.clip(boxes, 0.0, np.concatenate([sizes, sizes], axis=1))
        kept: NDArray[np.bool_] = np.logical_and.reduce(np.isfinite(boxes), axis=1)
        for corners in (boxes, inside):  # both: clipping can give an inverted box an area
            kept &= np.logical_and.reduce(corners[:, 2:] > corners[:, :2], axis=1)
        with np.errstate(invalid="ignore"):
            moved = kept & (np.abs(boxes - inside).max(axis=1, initial=0.0) > _ROUNDING)
        for kind, chosen in (("dropped", ~kept), ("clipped", moved)):
            places = np.flatnonzero(chosen).tolist()
            for index in places[:_KEPT]:
                box = _box_text(boxes[index].tolist(), *sizes[index].tolist())
                self.mend(kind, f"{where(index)}: {box} {kind}")
            self.counts[kind] += len(places[_KEPT:])
        return inside, kept


def _box_text(box: Sequence[float], width: float, height: float) -> str:
    if all(map(math.isnan, box)):
        return "has no box that can be read,"
    numbers = ", ".join(f"{value:g}" for value in box)
    return f"box ({numbers}) in an image of {width:g}x{height:g}"


def require_contents(contents: Mapping[str, int], why: str, source: Path) -> None:
    """Refuses a set that has nothing to learn from.

    Raises:
        DataError: Says why.
    """
    if contents["images"] == 0 or contents["boxes"] == 0:
        found = f"{contents['images']} images, {contents['boxes']} boxes"
        raise DataError(
            f"the data set is empty ({found}): {why}",
            path=source,
            hint="check the folder and the annotations",
        )


def too_many_bad(bad: Sequence[str], allowed: int, source: Path, *, others: int = 0) -> DataError:
    """Names the first of the images that cannot be used; ``others`` are counted only."""
    rest = others + max(0, len(bad) - _SHOWN)
    more = f" and {rest} more" if rest else ""
    return DataError(
        f"{len(bad) + others} bad images, {allowed} allowed: {', '.join(bad[:_SHOWN])}{more}",
        path=source,
        hint="replace or remove them, or raise data.max_bad_images",
    )


def distinct_names(names: Sequence[str], findings: Findings) -> tuple[str, ...]:
    """Returns class names of which no two are alike: a later one gets its label behind it.

    Raises:
        DataError: In strict mode, where two are alike.
    """
    distinct: list[str] = []
    for label, name in enumerate(names):
        new = name
        while new in distinct or (new != name and new in names):
            new = f"{new} ({label})"
        if new != name:
            first = list(names).index(name)
            findings.mend(
                "renamed_classes",
                f"classes {first} and {label} are both called {name!r}, the second is {new!r} now",
            )
        distinct.append(new)
    return tuple(distinct)
