"""A data set as the COCO document that pycocotools reads, to compare with what was read."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

from quantpipe.data.dataset import DetectionDataset, ImageRecord


def coco_document(dataset: DetectionDataset) -> dict[str, Any]:
    """Annotation ids count from 1: pycocotools takes an id of 0 for "no match"."""
    entries = [entry for record in dataset.images for entry in _annotations(dataset, record)]
    return {
        "info": {"description": dataset.name},
        "images": [
            {"id": r.image_id, "file_name": r.path.name, "width": r.width, "height": r.height}
            for r in dataset.images
        ],
        "annotations": [{"id": number, **entry} for number, entry in enumerate(entries, start=1)],
        "categories": [
            {"id": category_id, "name": name}
            for category_id, name in zip(dataset.category_ids, dataset.class_names, strict=True)
        ],
    }


def _annotations(dataset: DetectionDataset, record: ImageRecord) -> Iterable[dict[str, Any]]:
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
                "category_id": dataset.category_ids[label],
                "bbox": [*corner[:2].tolist(), *size.tolist()],
                "area": float(area),
                "iscrowd": crowd,
            }
