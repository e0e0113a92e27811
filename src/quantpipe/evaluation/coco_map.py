"""COCO average precision of boxes, by pycocotools."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from quantpipe.errors import DataError, NumericalError

_IOU_50, _IOU_75 = 0, 5  # positions in COCO's IoU thresholds 0.50, 0.55, ..., 0.95
_ALL, _SMALL, _MEDIUM, _LARGE = 0, 1, 2, 3  # positions in COCO's area ranges
_NO_OBJECTS = -1.0  # pycocotools' mark for a precision that is not defined


@dataclass(frozen=True, kw_only=True)
class MapResult:
    """COCO average precision, as fractions of one.

    ``small``, ``medium`` and ``large`` (areas below 32^2, below 96^2 and above, in original
    pixels) are None where the images hold no such object or sizes were not asked for.
    ``per_class`` holds AP 50:95 by class name, for the classes that the images show.
    """

    map: float
    map50: float
    map75: float
    small: float | None
    medium: float | None
    large: float | None
    per_class: Mapping[str, float]
    num_images: int
    num_detections: int


class CocoEvaluator:
    """Gathers the detections of one image after another and scores them.

    Only images that were added are scored, so a subset of the ground truth can be measured; an
    image without any detection is added with empty arrays. Crowd boxes are ignored as COCO does.

    Args:
        ground_truth: A COCO data set (``images``, ``annotations``, ``categories``). Annotation
            ids are given anew, because ids of 0 and duplicates make COCO evaluation return 0; a
            missing ``iscrowd`` is 0, a missing ``area`` is that of the box. It is not changed.
        category_ids: The category id of each label.
        by_size: Whether to score small, medium and large objects too; costs four times as much.

    Raises:
        NumericalError: A box of the ground truth is NaN or infinite (COCO would score it 1.0).
    """

    def __init__(
        self,
        ground_truth: Mapping[str, Any],
        category_ids: Sequence[int],
        *,
        by_size: bool = True,
    ):
        self._category_ids = np.asarray(category_ids, dtype=np.int64)
        self._categories = [dict(category) for category in ground_truth["categories"]]
        self._images = {int(image["id"]): dict(image) for image in ground_truth["images"]}
        self._truth: dict[int, list[dict[str, Any]]] = {}
        for annotation in ground_truth["annotations"]:
            mended = _mended(annotation)
            self._truth.setdefault(mended["image_id"], []).append(mended)
        self._found: dict[int, list[dict[str, Any]]] = {}
        self._by_size = by_size

    def add(
        self,
        image_id: int,
        boxes: NDArray[np.floating[Any]],
        scores: NDArray[np.floating[Any]],
        labels: NDArray[np.integer[Any]],
    ) -> None:
        """Adds the detections of one image.

        Args:
            image_id: As in the ground truth; each image once.
            boxes: (n, 4) x1, y1, x2, y2 in pixels of the original image.
            scores: (n,)
            labels: (n,) indices into ``category_ids``.

        Raises:
            DataError: The ground truth has no such image.
            NumericalError: A box or a score is NaN or infinite (COCO would score it 1.0).
        """
        image_id = int(image_id)
        if image_id not in self._images:
            raise DataError(f"image {image_id} is not in the ground truth")
        assert image_id not in self._found, f"image {image_id} was added before"
        assert len(boxes) == len(scores) == len(labels), (len(boxes), len(scores), len(labels))
        if not (np.isfinite(boxes).all() and np.isfinite(scores).all()):
            raise NumericalError(f"a detection in image {image_id} is NaN or infinite")
        corners = np.asarray(boxes, dtype=np.float64).reshape(-1, 4)
        sizes = np.maximum(corners[:, 2:] - corners[:, :2], 0)
        self._found[image_id] = [
            {
                "image_id": image_id,
                "category_id": category,
                "bbox": [*corner[:2], *size],
                "area": size[0] * size[1],
                "score": score,
                "iscrowd": 0,
            }
            for corner, size, score, category in zip(
                corners.tolist(),
                sizes.tolist(),
                np.asarray(scores, dtype=np.float64).tolist(),
                self._category_ids[np.asarray(labels, dtype=np.int64)].tolist(),
                strict=True,
            )
        ]

    def result(self) -> MapResult:
        """Returns the average precision of everything added.

        Raises:
            DataError: No image was added, or the added ones show no object to find.
        """
        evaluation = self._matched(by_size=self._by_size)
        with contextlib.redirect_stdout(io.StringIO()):
            evaluation.accumulate()
        # (IoU thresholds, recalls, categories, areas), at 100 detections an image
        precision = evaluation.eval["precision"][..., -1]
        num_found = sum(map(len, self._found.values()))
        return self._summarized(precision, len(self._found), num_found)

    def matches(self) -> list[list[dict[str, Any] | None]]:
        """Returns pycocotools' records of what matched, by category and by image as added.

        A record holds ``dtScores`` (D,), ``dtMatches`` and ``dtIgnore`` (IoU thresholds, D), at
        100 detections an image, and ``gtIgnore`` (G,). It is None where an image has neither an
        object nor a detection of the category.

        Raises:
            DataError: No image was added, or the added ones show no object to find.
        """
        evaluation = self._matched(by_size=False)
        places = {image_id: place for place, image_id in enumerate(evaluation.params.imgIds)}
        order = [places[image_id] for image_id in self._found]
        records, num_images = evaluation.evalImgs, len(order)
        return [
            [records[first + place] for place in order]
            for first in range(0, len(records), num_images)
        ]

    def _matched(self, *, by_size: bool) -> COCOeval:
        """Detections matched to objects, nothing accumulated yet."""
        images = [self._images[image_id] for image_id in self._found]
        truth = [box for image_id in self._found for box in self._truth.get(image_id, ())]
        found = [box for boxes in self._found.values() for box in boxes]
        if all(box["iscrowd"] for box in truth):
            raise DataError(
                f"nothing to evaluate: no object is marked in the {len(images)} images",
                hint="evaluate on images that have annotations",
            )
        with contextlib.redirect_stdout(io.StringIO()):
            evaluation = COCOeval(
                _index(images, self._categories, truth),
                _index(images, self._categories, found),
                "bbox",
            )
            evaluation.params.catIds = sorted(self._category_ids.tolist())
            if not by_size:
                evaluation.params.areaRng = evaluation.params.areaRng[:1]
                evaluation.params.areaRngLbl = evaluation.params.areaRngLbl[:1]
            evaluation.evaluate()
        return evaluation

    def _summarized(
        self, precision: NDArray[np.float64], num_images: int, num_detections: int
    ) -> MapResult:
        names = {category["id"]: str(category["name"]) for category in self._categories}
        by_class = {
            names[category]: _mean(precision[:, :, position, _ALL])
            for position, category in enumerate(sorted(self._category_ids.tolist()))
        }
        sizes = [
            _mean(precision[..., area]) if self._by_size else None
            for area in (_SMALL, _MEDIUM, _LARGE)
        ]
        return MapResult(
            map=_mean(precision[..., _ALL]) or 0.0,
            map50=_mean(precision[_IOU_50, ..., _ALL]) or 0.0,
            map75=_mean(precision[_IOU_75, ..., _ALL]) or 0.0,
            small=sizes[0],
            medium=sizes[1],
            large=sizes[2],
            per_class={name: value for name, value in by_class.items() if value is not None},
            num_images=num_images,
            num_detections=num_detections,
        )


def _mended(annotation: Mapping[str, Any]) -> dict[str, Any]:
    box = [float(value) for value in annotation["bbox"]]
    if not np.isfinite(box).all():
        raise NumericalError(
            f"a box of image {annotation['image_id']} in the ground truth is NaN or infinite"
        )
    return {
        "image_id": int(annotation["image_id"]),
        "category_id": int(annotation["category_id"]),
        "bbox": box,
        "area": float(annotation.get("area", box[2] * box[3])),
        "iscrowd": int(annotation.get("iscrowd", 0)),
    }


def _index(
    images: list[dict[str, Any]], categories: list[dict[str, Any]], boxes: list[dict[str, Any]]
) -> COCO:
    """A pycocotools data set; boxes get ids from 1 and are copied, for pycocotools marks them."""
    index = COCO()
    numbered = [{**box, "id": number} for number, box in enumerate(boxes, start=1)]
    index.dataset = {"images": images, "categories": categories, "annotations": numbered}
    index.createIndex()
    return index


def _mean(precision: NDArray[np.float64]) -> float | None:
    defined = precision[precision != _NO_OBJECTS]
    return float(defined.mean()) if defined.size else None
