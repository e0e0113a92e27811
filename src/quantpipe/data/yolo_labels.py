"""Label files of YOLO data sets: a line for each object, its numbers normalized by the image."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import final

import numpy as np
from numpy.typing import NDArray

from quantpipe.data.faults import Findings
from quantpipe.data.records import Annotations, FoundImage
from quantpipe.errors import DataError
from quantpipe.given_files import read_text

_NAMED = 5  # of the missing files, in a message


@final
class LabelLines:
    """Collects the lines of many label files.

    Args:
        num_classes: Classes are 0 to ``num_classes`` - 1.
        num_more: How many numbers follow a box (key points), 0 where outlines may stand instead.
        findings: Told of lines that are no box.
        allow_missing: Whether an image without a label file is one without objects.
    """

    def __init__(self, *, num_classes: int, num_more: int, findings: Findings, allow_missing: bool):
        self._num_classes = num_classes
        self._num_more = num_more
        self._findings = findings
        self._allow_missing = allow_missing
        self._unlabelled: list[str] = []
        self._read: set[Path] = set()
        self._owners: list[int] = []
        self._rows: list[Sequence[float]] = []  # class x y width height
        self._where: list[tuple[Path, int]] = []

    def add(self, owner: int, name: str, path: Path | None) -> None:
        """Reads the label file called ``name`` of the image at ``owner``; None: it is missing.

        Raises:
            DataError: It cannot be read, or a class has no name; in strict mode, a line is no box.
        """
        if path is None:
            self._unlabelled.append(name)
            return
        if path in self._read:
            self._findings.tell("shared_labels", f"label file {name} is that of several images")
        self._read.add(path)
        for number, line in enumerate(read_text(path, DataError).splitlines(), start=1):
            words = line.split()
            if not words:
                continue
            row = self._parse(words)
            if row is None:
                cut = f"{line.strip()[:60]!r}"
                place = _place(path, number)
                self._findings.mend("dropped", f"{place}: {cut} is no box, dropped")
                continue
            if not (row[0].is_integer() and 0 <= row[0] < self._num_classes):
                raise DataError(
                    f"line {number}: unknown class {row[0]:g}, {self._num_classes} are named",
                    path=path,
                )
            self._owners.append(owner)
            self._rows.append(row)
            self._where.append((path, number))

    def annotations(self, images: Sequence[FoundImage]) -> Annotations:
        """Returns all that was read, in pixels of the images.

        Raises:
            DataError: Images have no label file, and that is not allowed.
        """
        self._tell_unlabelled()
        rows = np.array(self._rows, dtype=np.float64).reshape(-1, 5)
        owners = np.array(self._owners, dtype=np.int64)
        sizes = np.array([(i.width, i.height) for i in images], dtype=np.float64).reshape(-1, 2)
        center, half = rows[:, 1:3], rows[:, 3:] / 2
        corners = np.concatenate([center - half, center + half], axis=1)
        return Annotations(
            owners=owners,
            boxes=corners * np.tile(sizes, 2)[owners],
            labels=rows[:, 0].astype(np.int64),
            areas=np.full(len(rows), np.nan),
            crowd=np.zeros(len(rows), dtype=np.bool_),
            where=lambda index: _place(*self._where[index]),
        )

    def _tell_unlabelled(self) -> None:
        missing = self._unlabelled
        if not missing:
            return
        rest = f" and {len(missing) - _NAMED} more" if len(missing) > _NAMED else ""
        line = f"{len(missing)} label files missing: {', '.join(missing[:_NAMED])}{rest}"
        if not self._allow_missing:
            raise self._findings.refusal(
                line, "add them (empty for no objects) or set data.allow_unlabelled=true"
            )
        self._findings.tell("unlabelled_images", line, len(missing))

    def _parse(self, words: list[str]) -> Sequence[float] | None:
        """Returns the class and the box that a line states or outlines, or None."""
        try:
            values = [float(word) for word in words]
        except ValueError:
            return None
        if len(values) == 5:
            return values
        if self._num_more:
            return values[:5] if len(values) == 5 + self._num_more else None
        if len(values) < 7 or len(values) % 2 == 0:
            return None
        return _around(values)


def _around(values: list[float]) -> list[float]:
    """The class, center, width and height around an outline of x and y by turns."""
    points: NDArray[np.float64] = np.array(values[1:]).reshape(-1, 2)
    low, high = points.min(axis=0), points.max(axis=0)  # keep a NaN, as min of Python may not
    return [values[0], *((low + high) / 2).tolist(), *(high - low).tolist()]


def _place(path: Path, number: int) -> str:
    return f"{path.parent.name}/{path.name} line {number}"
