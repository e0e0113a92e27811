"""Evaluation at the size of COCO's validation set, beside pycocotools.

python benchmarks/coco_size.py [--quick] [--json FILE]

Makes 5,000 images with 36,781 objects of 80 classes and about 100 detections each (with --quick a
tenth of the images), scores them by pycocotools and by the product, and draws 200 resamples of the
difference between two predictors. Each row runs in a process of its own, whose peak memory is given
above what the made detections take.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import multiprocessing
import resource
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from quantpipe.evaluation.coco_map import matched_detections, score
from quantpipe.evaluation.image_detections import ImageDetections
from quantpipe.evaluation.objects import Objects
from quantpipe.evaluation.resampling import bootstrap_difference

NUM_IMAGES, NUM_OBJECTS, NUM_CLASSES = 5_000, 36_781, 80
NUM_NOISE, NUM_RESAMPLES, SEED = 86, 200, 0


@dataclass(frozen=True, kw_only=True)
class Row:
    """What was done, in how long, by how much memory more than before, and the mAP if one."""

    what: str
    seconds: float
    peak_mib: float
    map: float


def main() -> None:
    """Runs every row and prints a table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="a tenth of the images")
    parser.add_argument("--json", type=Path, help="write the figures here")
    arguments = parser.parse_args()
    num_images = NUM_IMAGES // (10 if arguments.quick else 1)
    context = multiprocessing.get_context("spawn")
    rows = []
    print(f"{'':<58}{'seconds':>9}{'peak MiB':>10}{'mAP':>10}")
    for name in ROWS:
        with context.Pool(1) as pool:
            row = pool.apply(run, (name, num_images))
        rows.append(row)
        print(f"{row.what:<58}{row.seconds:>9.2f}{row.peak_mib:>10.0f}{row.map:>10.6f}", flush=True)
    if arguments.json is not None:
        arguments.json.write_text(json.dumps([asdict(row) for row in rows], indent=2))


def run(name: str, num_images: int) -> Row:
    """Makes the detections, then times one row on them."""
    rng = np.random.default_rng(SEED)
    objects = made_objects(rng, num_images)
    first, second = (made_detections(rng, objects, noise) for noise in (0.05, 0.06))
    before = _peak_mib()
    start = time.perf_counter()
    value = ROWS[name](objects, first, second)
    seconds = time.perf_counter() - start
    return Row(what=name, seconds=seconds, peak_mib=_peak_mib() - before, map=value)


def by_pycocotools(
    objects: Objects, first: list[ImageDetections], _: list[ImageDetections]
) -> float:
    """As a user calls it, with all four ranges of areas."""
    truth = COCO()
    truth.dataset = {
        "images": [{"id": int(number)} for number in objects.image_ids],
        "categories": [{"id": n, "name": name} for n, name in enumerate(objects.class_names)],
        "annotations": [
            {
                "id": number,
                "image_id": int(objects.image_ids[image]),
                "category_id": int(label),
                "bbox": box,
                "area": float(area),
                "iscrowd": 0,
            }
            for number, (image, label, box, area) in enumerate(
                zip(objects.image, objects.label, objects.box.tolist(), objects.area, strict=True),
                start=1,
            )
        ],
    }
    found = [
        {
            "image_id": image.image_id,
            "category_id": int(label),
            "bbox": [box[0], box[1], box[2] - box[0], box[3] - box[1]],
            "score": float(value),
        }
        for image in first
        for box, value, label in zip(
            image.boxes.astype(float).tolist(), image.scores, image.labels, strict=True
        )
    ]
    with contextlib.redirect_stdout(io.StringIO()):
        truth.createIndex()
        evaluation = COCOeval(truth, truth.loadRes(found), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return float(evaluation.stats[0])


def by_us(objects: Objects, first: list[ImageDetections], _: list[ImageDetections]) -> float:
    """MAP alone."""
    return score(first, objects).map


def by_us_with_sizes(
    objects: Objects, first: list[ImageDetections], _: list[ImageDetections]
) -> float:
    """MAP of small, medium and large objects too."""
    return score(first, objects, by_size=True).map


def paired(objects: Objects, first: list[ImageDetections], second: list[ImageDetections]) -> float:
    """Both matched, and the difference with its interval."""
    one, other = matched_detections(first, objects), matched_detections(second, objects)
    return bootstrap_difference(one, other, count=NUM_RESAMPLES, seed=SEED).value


ROWS: dict[str, Callable[[Objects, list[ImageDetections], list[ImageDetections]], float]] = {
    "mAP, small, medium, large: pycocotools": by_pycocotools,
    "mAP, small, medium, large: quantpipe": by_us_with_sizes,
    "mAP: quantpipe": by_us,
    f"two predictors matched, {NUM_RESAMPLES} paired resamples: quantpipe": paired,
}


def made_objects(rng: np.random.Generator, num_images: int) -> Objects:
    """Classes and sizes fall off as in COCO: a third are of one class, most are small."""
    number = NUM_OBJECTS * num_images // NUM_IMAGES
    label = np.minimum(rng.geometric(0.08, number) - 1, NUM_CLASSES - 1)
    size = np.exp(rng.normal(4.0, 1.0, (number, 2))).clip(4, 600)
    box = np.concatenate((rng.random((number, 2)) * (640 - size).clip(1), size), axis=1)
    return Objects(
        image_ids=np.arange(1, num_images + 1, dtype=np.int64),
        image=np.sort(rng.integers(0, num_images, number)),
        label=label,
        box=box,
        area=box[:, 2] * box[:, 3],
        crowd=np.zeros(number, dtype=np.bool_),
        class_names=tuple(f"class {n}" for n in range(NUM_CLASSES)),
    )


def made_detections(
    rng: np.random.Generator, objects: Objects, noise: float
) -> list[ImageDetections]:
    """Two shaken copies of every object, and noise of few confidence."""
    copies = np.repeat(np.arange(len(objects.image)), 2)
    strays = rng.integers(0, len(objects.image_ids), NUM_NOISE * len(objects.image_ids))
    shaken = _corners(objects.box[copies])
    shaken += rng.normal(0, noise, shaken.shape) * np.tile(objects.box[copies, 2:], 2)
    stray = rng.random((len(strays), 2)) * 500
    boxes = np.concatenate((shaken, np.concatenate((stray, stray + 60), axis=1)))
    image = np.concatenate((objects.image[copies], strays))
    scores = np.concatenate((rng.random(len(copies)), rng.random(len(strays)) * 0.4))
    labels = np.concatenate((objects.label[copies], rng.integers(0, NUM_CLASSES, len(strays))))
    order = np.lexsort((-scores, image))
    parts = np.split(order, np.searchsorted(image[order], np.arange(1, len(objects.image_ids))))
    return [
        ImageDetections(
            image_id=int(number),
            boxes=boxes[part].astype(np.float32),
            scores=scores[part].astype(np.float32),
            labels=labels[part].astype(np.int64),
        )
        for number, part in zip(objects.image_ids, parts, strict=True)
    ]


def _corners(box: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.concatenate((box[:, :2], box[:, :2] + box[:, 2:]), axis=1)


def _peak_mib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


if __name__ == "__main__":
    main()
