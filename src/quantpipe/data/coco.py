"""COCO detection data sets: a folder of images and a JSON file of annotations."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from quantpipe.data.coco_annotations import Columns, read_columns
from quantpipe.data.coco_document import Document, read_ids
from quantpipe.data.dataset import DetectionDataset, count_contents
from quantpipe.data.faults import Findings
from quantpipe.data.images import ImageHeader, read_header, stored_to_upright
from quantpipe.data.listing import image_files
from quantpipe.data.records import Annotations, FoundImage, build_records
from quantpipe.data.safe_paths import name_inside, resolve_inside, shorter_name
from quantpipe.data.written import read_number
from quantpipe.errors import DataError
from quantpipe.given_files import require_folder


def read_coco(
    images: Path, annotations: Path, *, max_bad_images: int, strict: bool
) -> DetectionDataset:
    """Reads and checks a COCO data set; labels follow the order of the category ids.

    Args:
        images: The folder that file names are relative to.
        annotations: The JSON file.
        max_bad_images: How many unreadable images may be left out.
        strict: Whether records that could be mended (boxes past the border, duplicate ids,
            missing fields, annotations of unknown images) are errors; else they are counted.

    Raises:
        DataError: The set cannot be read, is empty, names files outside ``images``, uses
            unknown categories, has normalized boxes, or has more faults than allowed.
    """
    require_folder(images, DataError)
    root = images.resolve()
    findings = Findings(annotations, strict=strict, max_bad_images=max_bad_images)
    document = read_ids(annotations, findings)
    columns = read_columns(document, annotations, findings)
    files = _Files(root, findings)
    found = _find_images(document, files)
    files.tell_unlisted()
    records = build_records(found.images, _of_found(columns, found), findings)
    counts = count_contents(records)
    findings.finish(counts)
    return DetectionDataset(
        name=annotations.stem,
        root=root,
        images=tuple(records),
        class_names=document.class_names,
        category_ids=tuple(document.category_ids.tolist()),
        counts={**counts, **findings.counts},
        notes=findings.notes,
    )


class _Found(NamedTuple):
    """The images that can be used, and the place of each of the document's among them, or -1."""

    images: list[FoundImage]
    places: NDArray[np.int64]
    turned: dict[int, ImageHeader]  # by place, those annotated before their EXIF rotation


def _find_images(document: Document, files: _Files) -> _Found:
    images: list[FoundImage] = []
    turned: dict[int, ImageHeader] = {}
    places = np.full(len(document.images), -1, dtype=np.int64)
    ids = document.image_ids.tolist()
    for place, (entry, image_id) in enumerate(zip(document.images, ids, strict=True)):
        path = files.find(entry)
        header, is_turned = files.header(entry, path)
        if header is None:
            continue
        places[place] = len(images)
        if is_turned:
            turned[len(images)] = header
        images.append(FoundImage(image_id, path, header.width, header.height))
    return _Found(images, places, turned)


class _Files:
    """The image files that a document names, below ``root``."""

    def __init__(self, root: Path, findings: Findings):
        self._root = root
        self._findings = findings
        self._named: set[str] = set()

    def find(self, entry: Mapping[str, Any]) -> Path:
        """Returns where an image lies.

        Raises:
            DataError: Not in ``root``.
        """
        written = entry.get("file_name")
        name = name_inside(self._root, written)
        if name != written and "\\" in str(written):
            self._findings.mend("mended_names", f"{written}: read with slashes, as {name}")
        if not os.path.lexists(self._root / name):
            shorter = shorter_name(self._root, name)
            if shorter is not None:
                line = f"image {name}: there is none, but {shorter}, which is read"
                self._findings.mend("mended_names", line)
                name = shorter
        path = resolve_inside(self._root, name)
        if str(path) in self._named:
            line = f"image {name} is listed again: each entry has its own annotations, or none"
            self._findings.tell("listed_again", line)
        self._named.add(str(path))
        return path

    def header(self, entry: Mapping[str, Any], path: Path) -> tuple[ImageHeader | None, bool]:
        """Returns an image's header, and whether it was annotated before its EXIF rotation.

        None where it has to be left out: it cannot be read, or is of another size than stated.
        """
        name = str(entry["file_name"])
        try:
            header = read_header(path)
        except DataError as error:
            self._findings.bad_image(name, error.cause)
            return None, False
        written = (entry.get("width"), entry.get("height"))
        actual = (header.width, header.height)
        stated = tuple(map(read_number, written))
        known = [a for side, a in zip(written, actual, strict=True) if side is not None]
        if None in written and known == [read_number(s) for s in written if s is not None]:
            line = f"image {name}: no width or height, taken from the file"
            self._findings.mend("mended_sizes", line)
        elif stated == actual:
            self._tell_text(name, written)
        elif header.orientation >= 5 and stated == actual[::-1]:
            line = f"image {name}: annotated before its EXIF rotation"
            self._findings.mend("turned_images", line)
            return header, True
        else:
            size = "x".join(str(side) if isinstance(side, int) else repr(side) for side in written)
            cause = f"annotated as {size} but the file is {actual[0]}x{actual[1]}"
            self._findings.bad_image(name, cause)
            return None, False
        return header, False

    def _tell_text(self, name: str, written: tuple[object, object]) -> None:
        if any(isinstance(side, str) for side in written):
            line = f"image {name}: width and height are text {written}, read as numbers"
            self._findings.mend("mended_sizes", line)

    def tell_unlisted(self) -> None:
        """Tells of the images of the folder that the document does not name."""
        unlisted = [file for file in image_files(self._root) if file not in self._named]
        if unlisted:
            first = os.path.relpath(min(unlisted), self._root)
            line = f"{len(unlisted)} images of the folder are not listed, the first is {first}"
            self._findings.tell("unlisted_images", line, len(unlisted))


def _of_found(columns: Columns, found: _Found) -> Annotations:
    """The annotations of the images that were found, in pixels of the upright image, in order."""
    owners = found.places[columns.owners]
    order = np.argsort(owners, kind="stable")
    order = order[owners[order] >= 0]
    owners, boxes = owners[order], columns.boxes[order]
    boxes[:, 2:] += boxes[:, :2]
    for place, header in found.turned.items():
        own = slice(*np.searchsorted(owners, (place, place + 1)).tolist())
        boxes[own] = stored_to_upright(
            boxes[own],
            orientation=header.orientation,
            width=header.height,
            height=header.width,
        )

    def where(index: int) -> str:
        file = found.images[owners[index]].path.name
        return f"{columns.where(int(order[index]))} ({file})"

    return Annotations(
        owners=owners,
        boxes=boxes,
        labels=columns.labels[order],
        areas=columns.areas[order],
        crowd=columns.crowd[order],
        where=where,
    )
