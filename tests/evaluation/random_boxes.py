"""Random objects and detections, and what pycocotools says of them."""

from __future__ import annotations

import contextlib
import copy
import io
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

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
