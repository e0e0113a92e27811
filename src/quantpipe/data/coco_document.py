"""The JSON file of a COCO data set: its lists, and ids as integers whatever they look like."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from quantpipe.data.faults import Findings, distinct_names
from quantpipe.data.written import integers
from quantpipe.errors import DataError
from quantpipe.given_files import read_text


@dataclass(frozen=True, kw_only=True)
class Document:
    """What the file lists; entries of annotations are not looked at yet.

    Attributes:
        images: As they stand.
        image_ids: (number of images,) int64.
        annotations: As they stand.
        category_ids: (number of classes,) int64, ascending.
        class_names: In the same order, all different.
    """

    images: list[dict[str, Any]]
    image_ids: NDArray[np.int64]
    annotations: list[dict[str, Any]]
    category_ids: NDArray[np.int64]
    class_names: tuple[str, ...]


def read_lists(path: Path) -> dict[str, list[dict[str, Any]]]:
    """Returns the lists ``images``, ``annotations`` and ``categories`` of a COCO file.

    Raises:
        DataError: It cannot be read, or is no such document.
    """
    text = read_text(path, DataError)
    try:
        document = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise DataError(f"not JSON ({error})", path=path) from error
    if not isinstance(document, dict):
        raise DataError("not a COCO document: the top level is no object", path=path)
    lists = {}
    for key in ("images", "annotations", "categories"):
        entries = document.get(key)
        if not isinstance(entries, list) or not set(map(type, entries)) <= {dict}:
            raise DataError(f"not a COCO document: no list of objects '{key}'", path=path)
        lists[key] = entries
    return lists


def read_ids(path: Path, findings: Findings) -> Document:
    """Returns the document with the ids of its images and categories.

    Raises:
        DataError: As of :func:`read_lists`; an id is no integer or there twice, or a category has
            no name. In strict mode, an id is written as text or a fraction, or a name is there
            twice.
    """
    lists = read_lists(path)
    image_ids = _unique_ids(lists["images"], "images", path, findings)
    category_ids = _unique_ids(lists["categories"], "categories", path, findings)
    order = np.argsort(category_ids)
    categories = [lists["categories"][place] for place in order.tolist()]
    for entry in categories:
        if not isinstance(entry.get("name"), str):
            cause = "has no name" if entry.get("name") is None else "has a name that is no text"
            raise DataError(f"category {entry['id']} {cause}", path=path)
    return Document(
        images=lists["images"],
        image_ids=image_ids,
        annotations=lists["annotations"],
        category_ids=category_ids[order],
        class_names=distinct_names([entry["name"] for entry in categories], findings),
    )


def _unique_ids(
    entries: Sequence[dict[str, Any]], key: str, path: Path, findings: Findings
) -> NDArray[np.int64]:
    written = [entry.get("id") for entry in entries]
    ids = integers(written)
    for place in np.flatnonzero(~ids.valid).tolist():
        raise DataError(f"{key}: id {written[place]!r} is not an integer", path=path)
    odd = np.flatnonzero(~ids.plain)
    if len(odd):
        findings.mend(
            "mended_ids",
            f"{key}: {len(odd)} ids are not written as integers but read as such, "
            f"the first is {written[odd[0]]!r}",
            len(odd),
        )
    values, counts = np.unique(ids.values, return_counts=True)
    for value in values[counts > 1].tolist():
        raise DataError(f"{key}: id {value} is there twice", path=path)
    return ids.values
