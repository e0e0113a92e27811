"""What every reader returns: image records, class names, counts, and a name for the content."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from quantpipe.data.contents import read_contents
from quantpipe.files import canonical_json


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

    def fingerprint(self, digests: Sequence[str] | None = None) -> str:
        """Returns the SHA-256 of the annotations and of every image's bytes, never of a path.

        Args:
            digests: Of the images, where they are known; None reads every image.
        """
        if digests is None:
            paths = [record.path for record in self.images]
            digests = [content.digest for content in read_contents(paths, self.root, None)]
        whole = hashlib.sha256(canonical_json(self._head()).encode())
        for record, digest in zip(self.images, digests, strict=True):
            whole.update(_record_content(record, digest))
        return whole.hexdigest()

    def _head(self) -> dict[str, Any]:
        return {"classes": list(self.class_names), "category_ids": list(self.category_ids)}


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
