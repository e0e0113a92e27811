"""The annotations of a COCO document as columns: whose they are, of what class, which box."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from quantpipe.data.coco_document import Document
from quantpipe.data.faults import Findings
from quantpipe.data.outlines import outline_box
from quantpipe.data.written import Integers, integers, numbers
from quantpipe.errors import DataError

_FIRST_PIXEL = 1.02  # normalized boxes pass 1 by what annotations are rounded to


class Columns(NamedTuple):
    """The n annotations of known images.

    Attributes:
        owners: (n,) int64, the place of their image in the document.
        labels: (n,) int64.
        boxes: (n, 4) float64 x, y, width, height pixels; NaN where there is no box.
        areas: (n,) float64 square pixels; NaN where none is stated.
        crowd: (n,) bool.
        where: Names an annotation in messages.
    """

    owners: NDArray[np.int64]
    labels: NDArray[np.int64]
    boxes: NDArray[np.float64]
    areas: NDArray[np.float64]
    crowd: NDArray[np.bool_]
    where: Callable[[int], str]


def read_columns(document: Document, path: Path, findings: Findings) -> Columns:
    """Returns the annotations whose image the document lists.

    Raises:
        DataError: A category is not known; most boxes lie within the first pixel; in strict mode,
            a record that is not what the format says.
    """
    names = _Names(document.annotations)
    names.tell(findings)
    image_ids = _ids(document, "image_id", names, findings)
    category_ids = _ids(document, "category_id", names, findings)
    labels = _places(category_ids, document.category_ids)
    unknown = np.flatnonzero(labels < 0).tolist()
    if unknown:
        category = document.annotations[unknown[0]].get("category_id")
        more = f", and {len(unknown) - 1} more" if len(unknown) > 1 else ""
        raise DataError(
            f"{names(unknown[0])}: unknown category {category!r}{more}",
            path=path,
            hint="add it to 'categories' or remove the annotation",
        )
    owners = _places(image_ids, document.image_ids)
    _tell_strangers(document, np.flatnonzero(owners < 0), names, findings)
    known = np.flatnonzero(owners >= 0)
    entries = [document.annotations[place] for place in known.tolist()]

    def where(index: int) -> str:
        return names(int(known[index]))

    crowd, areas = _fields(entries, where, findings)
    boxes = _boxes(entries, where, findings)
    _look_for_normalized(boxes, where, path, findings)
    return Columns(owners[known], labels[known], boxes, areas, crowd, where)


class _Names:
    """What messages call an annotation: by its id, or by its place where that says nothing."""

    def __init__(self, annotations: Sequence[dict[str, Any]]):
        self._written = [entry.get("id") for entry in annotations]
        self._ids = integers(self._written)
        self._own = np.zeros(len(self._written), dtype=np.bool_)
        self._own[np.unique(self._ids.values, return_index=True)[1]] = True
        self._own &= self._ids.plain & (self._ids.values != 0)

    def __call__(self, place: int) -> str:
        if self._own[place]:
            return f"annotation {self._ids.values[place]}"
        return f"annotation at position {place}"

    def tell(self, findings: Findings) -> None:
        """Counts those without an id of their own; ids are checked and then forgotten."""
        bad = np.flatnonzero(~self._own)
        if len(bad):
            findings.mend(
                "mended_ids",
                f"{len(bad)} annotations have no integer of their own as id, the first is at "
                f"position {bad[0]}: {self._written[bad[0]]!r} is missing, 0 or a duplicate",
                len(bad),
            )


def _ids(document: Document, key: str, names: _Names, findings: Findings) -> Integers:
    written = [entry.get(key) for entry in document.annotations]
    ids = integers(written)
    odd = np.flatnonzero(ids.valid & ~ids.plain)
    if len(odd):
        findings.mend(
            "mended_ids",
            f"'{key}' of {len(odd)} annotations is not written as an integer but read as one, "
            f"the first is {names(int(odd[0]))}: {written[odd[0]]!r}",
            len(odd),
        )
    return ids


def _places(ids: Integers, known: NDArray[np.int64]) -> NDArray[np.int64]:
    """The place of each id among the known ones, -1 where it is none of them."""
    order = np.argsort(known)
    places = np.searchsorted(known, ids.values, sorter=order)
    places = order[np.minimum(places, len(known) - 1)] if len(known) else places
    found = ids.valid & (known[places] == ids.values if len(known) else False)
    return np.where(found, places, -1)


def _tell_strangers(
    document: Document, strangers: NDArray[np.int64], names: _Names, findings: Findings
) -> None:
    for place in strangers.tolist()[:1]:
        image = document.annotations[place].get("image_id")
        more = f", and so are {len(strangers) - 1} more" if len(strangers) > 1 else ""
        line = f"{names(place)}: unknown image {image!r}, dropped{more}"
        findings.mend("unknown_images", line, len(strangers))


def _fields(
    entries: Sequence[dict[str, Any]], where: Callable[[int], str], findings: Findings
) -> tuple[NDArray[np.bool_], NDArray[np.float64]]:
    written = [entry.get("iscrowd") for entry in entries]
    if bool in set(map(type, written)):
        written = [int(value) if isinstance(value, bool) else value for value in written]
    crowd = integers(written)
    areas, plain = numbers([entry.get("area") for entry in entries])
    with np.errstate(invalid="ignore"):
        stated = (areas >= 0) & np.isfinite(areas)
    sound = crowd.plain & np.isin(crowd.values, (0, 1)) & plain & stated
    for index in np.flatnonzero(~sound).tolist()[:1]:
        count = int((~sound).sum())
        more = f", and of {count - 1} more" if count > 1 else ""
        line = f"{where(index)}: 'iscrowd' or 'area' is missing or out of range{more}"
        findings.mend("mended_fields", line, count)
    return crowd.valid & (crowd.values == 1), np.where(stated, areas, np.nan)


def _boxes(
    entries: Sequence[dict[str, Any]], where: Callable[[int], str], findings: Findings
) -> NDArray[np.float64]:
    boxes = _stated_boxes([entry.get("bbox") for entry in entries], where, findings)
    with np.errstate(invalid="ignore"):
        usable = np.isfinite(boxes).all(axis=1) & (boxes[:, 2:] > 0).all(axis=1)
    outlined = []
    for index in np.flatnonzero(~usable).tolist():
        box = outline_box(entries[index].get("segmentation"))
        if box[2] > 0 and box[3] > 0:
            boxes[index] = box
            outlined.append(index)
    if outlined:
        findings.mend(
            "boxes_from_outlines",
            f"{len(outlined)} annotations have no box, it is taken from their outline; "
            f"the first is {where(outlined[0])}",
            len(outlined),
        )
    return boxes


def _stated_boxes(
    written: list[Any], where: Callable[[int], str], findings: Findings
) -> NDArray[np.float64]:
    boxes = np.full((len(written), 4), np.nan)
    sized = [type(box) is list and len(box) == 4 for box in written]
    places = np.flatnonzero(np.array(sized, dtype=np.bool_))
    flat = list(chain.from_iterable(box for box, good in zip(written, sized, strict=True) if good))
    values, plain = numbers(flat)
    boxes[places] = values.reshape(-1, 4)
    of_text, whole = ~plain.reshape(-1, 4), np.isfinite(boxes[places])
    mended = places[of_text.any(axis=1) & whole.all(axis=1)]
    if len(mended):
        findings.mend(
            "mended_boxes",
            f"the boxes of {len(mended)} annotations hold text, read as numbers; "
            f"the first is {where(int(mended[0]))}",
            len(mended),
        )
    return boxes


def _look_for_normalized(
    boxes: NDArray[np.float64], where: Callable[[int], str], path: Path, findings: Findings
) -> None:
    """Refuses a set most of whose boxes lie within the first pixel, and counts a few that do."""
    with np.errstate(invalid="ignore"):
        inside = (np.abs(boxes) <= _FIRST_PIXEL).all(axis=1)
    tiny = np.flatnonzero(inside)
    if not len(tiny):
        return
    num_boxes = int(np.isfinite(boxes).all(axis=1).sum())
    first = ", ".join(f"{value:g}" for value in boxes[tiny[0]])
    line = (
        f"{len(tiny)} of {num_boxes} boxes lie within the first pixel, the first is "
        f"{where(int(tiny[0]))} ({first}): are they normalized?"
    )
    if 2 * len(tiny) > num_boxes:
        hint = "COCO boxes are x, y, width, height in pixels: multiply by the size of the image"
        raise DataError(line, path=path, hint=hint)
    findings.mend("boxes_in_first_pixel", line, len(tiny))
