from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from quantpipe.data.coco import read_coco
from quantpipe.data.coco_layout import find_coco_split
from quantpipe.data.dataset import DetectionDataset
from quantpipe.data.shapes import generate_shapes
from quantpipe.progress import Silent

CocoMaker = Callable[..., tuple[Path, Path]]


@pytest.fixture
def make_coco(tmp_path: Path) -> CocoMaker:
    """Writes 64x48 gray JPEGs a.jpg, b.jpg and a document that ``changes`` may replace parts of."""

    def make(**changes: Any) -> tuple[Path, Path]:
        folder = tmp_path / "train"
        folder.mkdir(exist_ok=True)
        for name, gray in (("a.jpg", 90), ("b.jpg", 160)):
            Image.fromarray(np.full((48, 64, 3), gray, dtype=np.uint8)).save(folder / name)
        document = {
            "images": [
                {"id": 7, "file_name": "a.jpg", "width": 64, "height": 48},
                {"id": 3, "file_name": "b.jpg", "width": 64, "height": 48},
            ],
            "annotations": [_box(1, 7, 90, [10, 12, 20, 16]), _box(2, 3, 5, [0, 0, 64, 48])],
            "categories": [{"id": 90, "name": "toothbrush"}, {"id": 5, "name": "airplane"}],
            **changes,
        }
        path = tmp_path / "annotations" / "instances_train.json"
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps(document))
        return folder, path

    return make


@pytest.fixture
def box() -> Callable[..., dict[str, Any]]:
    return _box


def _box(
    number: object, image_id: object, category_id: object, bbox: object, **more: Any
) -> dict[str, Any]:
    """A COCO annotation."""
    area = bbox[2] * bbox[3] if isinstance(bbox, list) and len(bbox) == 4 else 1
    return {
        "id": number,
        "image_id": image_id,
        "category_id": category_id,
        "bbox": bbox,
        "area": area,
        "iscrowd": 0,
        **more,
    }


@pytest.fixture(scope="session")
def shapes_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("shapes")
    generate_shapes(
        folder,
        num_train=18,
        num_val=5,
        image_size=96,
        num_classes=4,
        seed=3,
        difficulty=0.5,
        progress=Silent(),
    )
    return folder


@pytest.fixture(scope="session")
def shapes(shapes_folder: Path) -> DetectionDataset:
    return read_coco(*find_coco_split(shapes_folder, "train"), max_bad_images=0, strict=True)
