"""What every reader returns: image records, class names, counts, and a name for the content."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from quantpipe.errors import DataError
from quantpipe.files import canonical_json, sha256_bytes, sha256_file, write_json

# A file changed within this many nanoseconds may change again under the same time stamp.
_SETTLED_NS = 50_000_000
_HASH_THREADS = 8  # hashing and reading both release the interpreter lock


@dataclass(frozen=True, kw_only=True, eq=False)
class ImageRecord:
    """One image and its ground truth, in pixels of the upright (EXIF-rotated) original.

    Attributes:
        image_id: Unique in the data set; the id in the annotation file where it has one.
        path: The image file.
        width: Pixels.
        height: Pixels.
        boxes: (n, 4) float32 x1, y1, x2, y2, inside the image.
        labels: (n,) int64, index into the class names.
        areas: (n,) float32 square pixels, as annotated (of the outline, if it has one).
        crowd_boxes: (m, 4) float32, kept out of training; evaluation ignores what lies in them.
        crowd_labels: (m,) int64.
    """

    image_id: int
    path: Path
    width: int
    height: int
    boxes: NDArray[np.float32]
    labels: NDArray[np.int64]
    areas: NDArray[np.float32]
    crowd_boxes: NDArray[np.float32]
    crowd_labels: NDArray[np.int64]


@dataclass(frozen=True, kw_only=True, eq=False)
class DetectionDataset:
    """Images with boxes, checked: every file was found and every box lies in its image.

    Attributes:
        name: For people; no part of the fingerprint.
        root: The folder that the images lie below.
        images: In order of the annotation file (COCO) or of their names (YOLO).
        class_names: By label.
        category_ids: ``category_ids[label]`` is the id in the COCO file (YOLO: 1, 2, ...).
        counts: images, boxes, crowd_boxes, background_images, bad_images, clipped, dropped, ...
        notes: One line for each file or record that was mended, dropped or skipped.
    """

    name: str
    root: Path
    images: tuple[ImageRecord, ...]
    class_names: tuple[str, ...]
    category_ids: tuple[int, ...]
    counts: Mapping[str, int]
    notes: tuple[str, ...] = field(default=())

    def subset(self, indices: Iterable[int]) -> DetectionDataset:
        """Returns the data set of the images at ``indices``, in that order."""
        images = tuple(self.images[index] for index in indices)
        return replace(self, images=images, counts={**self.counts, **count_contents(images)})

    def fingerprint(self, memo: Path | None) -> str:
        """Returns the SHA-256 of the annotations and of every image's bytes, never of a path.

        Args:
            memo: A JSON file that remembers image digests by relative name, size and times, so
                that an unchanged set is named without reading it; None reads every image.
        """
        digests = _image_digests(self.images, self.root, memo)
        whole = hashlib.sha256(canonical_json(self._head()).encode())
        for record, digest in zip(self.images, digests, strict=True):
            whole.update(_record_content(record, digest))
        return whole.hexdigest()

    def coco_ground_truth(self) -> dict[str, Any]:
        """Returns a COCO document of this set, as ``pycocotools.coco.COCO`` wants it.

        Annotation ids count from 1: pycocotools takes an id of 0 for "no match".
        """
        annotations = [
            {"id": number, **annotation}
            for number, annotation in enumerate(
                (entry for record in self.images for entry in self._annotations(record)), start=1
            )
        ]
        return {
            "info": {"description": self.name},
            "images": [
                {"id": r.image_id, "file_name": r.path.name, "width": r.width, "height": r.height}
                for r in self.images
            ],
            "annotations": annotations,
            "categories": [
                {"id": category_id, "name": name}
                for category_id, name in zip(self.category_ids, self.class_names, strict=True)
            ],
        }

    def _head(self) -> dict[str, Any]:
        return {"classes": list(self.class_names), "category_ids": list(self.category_ids)}

    def _annotations(self, record: ImageRecord) -> Iterable[dict[str, Any]]:
        crowd_areas = np.prod(record.crowd_boxes[:, 2:] - record.crowd_boxes[:, :2], axis=1)
        groups = (
            (0, record.boxes, record.labels, record.areas),
            (1, record.crowd_boxes, record.crowd_labels, crowd_areas),
        )
        for crowd, boxes, labels, areas in groups:
            corners = boxes.astype(np.float64)
            sizes = corners[:, 2:] - corners[:, :2]
            for corner, size, label, area in zip(corners, sizes, labels, areas, strict=True):
                yield {
                    "image_id": record.image_id,
                    "category_id": self.category_ids[label],
                    "bbox": [*corner[:2].tolist(), *size.tolist()],
                    "area": float(area),
                    "iscrowd": crowd,
                }


def count_contents(images: Sequence[ImageRecord]) -> dict[str, int]:
    """Returns how many images, boxes, crowd boxes and images without a box there are."""
    return {
        "images": len(images),
        "boxes": sum(len(record.boxes) for record in images),
        "crowd_boxes": sum(len(record.crowd_boxes) for record in images),
        "background_images": sum(not len(record.boxes) for record in images),
    }


def _record_content(record: ImageRecord, digest: str) -> bytes:
    arrays = (
        record.boxes,
        record.labels,
        record.areas,
        record.crowd_boxes,
        record.crowd_labels,
    )
    head = (record.image_id, record.width, record.height, *(len(array) for array in arrays), digest)
    return " ".join(map(str, head)).encode() + b"".join(array.tobytes() for array in arrays)


def _image_digests(images: Sequence[ImageRecord], root: Path, memo: Path | None) -> list[str]:
    names = [str(record.path.relative_to(root)) for record in images]
    known = {} if memo is None else _read_memo(memo)
    with ThreadPoolExecutor(_HASH_THREADS) as executor:
        found = list(
            executor.map(lambda record, name: _digest(record.path, known.get(name)), images, names)
        )
    fresh = {name: entry for name, entry in zip(names, found, strict=True) if entry[0]}
    if memo is not None and any(known.get(name) != entry for name, entry in fresh.items()):
        with suppress(OSError):  # it only saves time: a store that can only be read has none
            _write_memo(memo, known | fresh)
    return [digest for _, digest in found]


def _digest(path: Path, known: list[str] | None) -> list[str]:
    """Returns what the memo keeps of a file: its stamp ("" if it just changed) and its digest."""
    try:
        before = path.stat()
        stamp = f"{before.st_size} {before.st_mtime_ns} {before.st_ctime_ns}"
        if known is not None and known[0] == stamp:
            return known
        digest = sha256_file(path)
    except OSError as error:
        raise DataError(f"image cannot be read ({error.strerror})", path=path) from error
    settled = time.time_ns() - max(before.st_mtime_ns, before.st_ctime_ns) > _SETTLED_NS
    return [stamp if settled else "", digest]


def _read_memo(path: Path) -> dict[str, list[str]]:
    """Returns the entries of a memo; a missing or damaged one is empty, as it only saves time."""
    try:
        document = json.loads(path.read_bytes())
        entries = document["images"]
        # A digest of an image with a digit changed would name another data set.
        if document["sha256"] != sha256_bytes(canonical_json(entries).encode()):
            return {}
        return {name: entry for name, entry in entries.items() if _is_entry(entry)}
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return {}


def _write_memo(path: Path, entries: Mapping[str, list[str]]) -> None:
    digest = sha256_bytes(canonical_json(entries).encode())
    write_json(path, {"sha256": digest, "images": dict(entries)})


def _is_entry(entry: object) -> bool:
    return (
        isinstance(entry, list)
        and len(entry) == 2
        and all(isinstance(part, str) for part in entry)
        and len(entry[1]) == hashlib.sha256().digest_size * 2
    )
