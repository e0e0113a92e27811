"""Random objects and detections, and what pycocotools says of them."""

from __future__ import annotations

import contextlib
import copy
import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from quantpipe.evaluation.image_detections import ImageDetections
from quantpipe.evaluation.objects import Objects

Rows = tuple[NDArray[Any], NDArray[Any], NDArray[Any]]  # boxes, scores, labels
Truth = dict[str, list[dict[str, Any]]]

CATEGORY_IDS = (3, 7, 1)  # not sorted: label 0 is category 3


def random_truth(rng: np.random.Generator, num_images: int = 12) -> Truth:
    annotations: list[dict[str, Any]] = []
    for image_id in range(1, num_images + 1):
        for _ in range(rng.integers(0, 8)):
            x, y = rng.uniform(0, 400, 2)
            width, height = rng.uniform(8, 160, 2)
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": image_id,
                    "category_id": int(rng.choice(CATEGORY_IDS)),
                    "bbox": [x, y, width, height],
                    "area": width * height,
                    "iscrowd": int(rng.random() < 0.1),
                }
            )
    return {
        "images": [{"id": n, "width": 640, "height": 640} for n in range(1, num_images + 1)],
        "categories": [{"id": n, "name": f"class {n}"} for n in (1, 3, 7)],
        "annotations": annotations,
    }


def random_detections(rng: np.random.Generator, truth: Truth) -> dict[int, Rows]:
    """Jittered true boxes of right and wrong classes, and noise, by image."""
    found = {}
    for image in truth["images"]:
        own = [a for a in truth["annotations"] if a["image_id"] == image["id"]]
        rows = []
        for annotation in own:
            x, y, width, height = annotation["bbox"]
            for _ in range(3):
                left, top = np.add((x, y), rng.normal(0, 6, 2))
                label = CATEGORY_IDS.index(annotation["category_id"])
                label = label if rng.random() < 0.8 else int(rng.integers(3))
                rows.append([left, top, left + width, top + height, rng.random(), label])
        for _ in range(4):
            left, top = rng.uniform(0, 400, 2)
            rows.append([left, top, left + 40, top + 40, rng.random() * 0.5, rng.integers(3)])
        table = np.array(rows, dtype=np.float64)
        found[image["id"]] = (table[:, :4], table[:, 4], table[:, 5].astype(int))
    return found


def hostile_truth(rng: np.random.Generator, num_images: int = 6) -> Truth:
    """Boxes on a coarse grid, many of them equal, empty, in crowds, or annotated with odd areas."""
    truth = random_truth(rng, num_images)
    # Ids in no order, so that ties are broken by id and not by place.
    ids = rng.permutation(np.arange(1, num_images + 1) * 7).tolist()
    for image, number in zip(truth["images"], ids, strict=True):
        image["id"] = number
    truth["annotations"] = [
        {
            "id": number,
            "image_id": int(rng.choice(ids)),
            "category_id": int(rng.choice(CATEGORY_IDS)),
            "bbox": (rng.integers(0, 4, 4) * 20).astype(float).tolist(),
            "area": float(rng.choice([0, 32**2, 500, 96**2, 2e4])),
            "iscrowd": int(rng.random() < 0.2),
        }
        for number in range(1, 20 * num_images)
    ]
    return truth


def hostile_detections(rng: np.random.Generator, truth: Truth) -> dict[int, Rows]:
    """Equal scores, equal boxes, more than a hundred of a class, and nothing at all."""
    found = {}
    for place, image in enumerate(truth["images"]):
        number = (0, 40, 400)[place % 3]
        corners = rng.integers(0, 4, (number, 2)) * 20.0
        sizes = rng.integers(0, 5, (number, 2)) * 19.0
        boxes = np.concatenate((corners, corners + sizes), axis=1)
        found[image["id"]] = boxes, rng.integers(1, 6, number) / 5, rng.integers(0, 3, number)
    return found


def objects_in(truth: Truth, category_ids: Sequence[int] = CATEGORY_IDS) -> Objects:
    """The objects of a COCO document; an area that is missing is that of the box."""
    image_ids = [image["id"] for image in truth["images"]]
    names = {category["id"]: category["name"] for category in truth["categories"]}
    annotations = truth["annotations"]
    box = np.array([a["bbox"] for a in annotations], dtype=np.float64).reshape(-1, 4)
    areas = [a.get("area", w * h) for a, (_, _, w, h) in zip(annotations, box, strict=True)]
    return Objects(
        image_ids=np.array(image_ids, dtype=np.int64),
        image=np.array([image_ids.index(a["image_id"]) for a in annotations], dtype=np.intp),
        label=np.array([category_ids.index(a["category_id"]) for a in annotations], dtype=np.intp),
        box=box,
        area=np.array(areas, dtype=np.float64),
        crowd=np.array([bool(a.get("iscrowd", 0)) for a in annotations], dtype=np.bool_),
        class_names=tuple(names[number] for number in category_ids),
    )


def as_images(found: Mapping[int, Rows]) -> list[ImageDetections]:
    return [
        ImageDetections(image_id=image_id, boxes=boxes, scores=scores, labels=labels)
        for image_id, (boxes, scores, labels) in found.items()
    ]


def pycocotools_stats(truth: Truth, found: dict[int, Rows]) -> NDArray[np.float64]:
    results = [
        {
            "image_id": image_id,
            "category_id": CATEGORY_IDS[label],
            "bbox": [box[0], box[1], box[2] - box[0], box[3] - box[1]],
            "score": score,
        }
        for image_id, (boxes, scores, labels) in found.items()
        for box, score, label in zip(boxes.tolist(), scores.tolist(), labels, strict=True)
    ]
    with contextlib.redirect_stdout(io.StringIO()):
        reference = COCO()
        reference.dataset = copy.deepcopy(truth)
        reference.createIndex()
        evaluation = COCOeval(reference, reference.loadRes(results), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return np.asarray(evaluation.stats)
