from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from tests.data.coco_document import coco_document

from quantpipe.data.coco import read_coco
from quantpipe.data.coco_layout import find_coco_split
from quantpipe.data.dataset import DetectionDataset
from quantpipe.files import sha256_bytes


def read(root: Path) -> DetectionDataset:
    return read_coco(*find_coco_split(root, "train"), max_bad_images=0, strict=True)


@pytest.fixture
def copy(shapes_folder: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(shapes_folder, tmp_path / "copy"))


def flip_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-20] ^= 1
    path.write_bytes(bytes(content))


def test_fingerprint_is_of_content_and_not_of_place(shapes: DetectionDataset, copy: Path) -> None:
    print_here = shapes.fingerprint()
    assert print_here == shapes.fingerprint()
    assert read(copy).fingerprint() == print_here
    renamed = copy / "annotations" / "instances_train.json"
    text = renamed.read_text().replace("000000.jpg", "other.jpg")
    (copy / "train" / "000000.jpg").rename(copy / "train" / "other.jpg")
    renamed.write_text(text)
    assert read(copy).fingerprint() == print_here


def test_digests_that_are_known_are_not_made_again(shapes: DetectionDataset) -> None:
    digests = [sha256_bytes(record.path.read_bytes()) for record in shapes.images]
    assert shapes.fingerprint(digests) == shapes.fingerprint()
    assert shapes.fingerprint(digests[::-1]) != shapes.fingerprint()


def test_fingerprint_sees_a_bit_of_an_image(shapes: DetectionDataset, copy: Path) -> None:
    flip_bit(copy / "train" / "000003.jpg")
    assert read(copy).fingerprint() != shapes.fingerprint()


@pytest.mark.parametrize("key", ["bbox", "category_id", "iscrowd", "area"])
def test_fingerprint_sees_every_annotation(shapes: DetectionDataset, copy: Path, key: str) -> None:
    path = copy / "annotations" / "instances_train.json"
    document = json.loads(path.read_text())
    entry = document["annotations"][4]
    changed = {
        "bbox": [entry["bbox"][0], entry["bbox"][1], entry["bbox"][2] - 1, entry["bbox"][3]],
        "category_id": entry["category_id"] % 4 + 1,
        "iscrowd": 1,
        "area": entry["area"] + 1,
    }
    entry[key] = changed[key]
    path.write_text(json.dumps(document))
    assert read(copy).fingerprint() != shapes.fingerprint()


def test_ground_truth_gives_back_what_was_read(
    shapes: DetectionDataset, shapes_folder: Path
) -> None:
    made = coco_document(shapes)
    path = shapes_folder / "annotations" / "instances_train.json"
    given = json.loads(path.read_text())
    assert made["images"] == given["images"]
    assert made["categories"] == given["categories"]
    for ours, theirs in zip(made["annotations"], given["annotations"], strict=True):
        assert ours["id"] == theirs["id"]
        assert ours["image_id"] == theirs["image_id"]
        assert ours["category_id"] == theirs["category_id"]
        assert ours["bbox"] == theirs["bbox"]
        np.testing.assert_allclose(ours["area"], theirs["area"], rtol=1e-6)


def test_subset_counts_its_own(shapes: DetectionDataset) -> None:
    part = shapes.subset([4, 2])
    assert part.images == (shapes.images[4], shapes.images[2])
    assert part.counts["images"] == 2
    assert part.counts["boxes"] == len(shapes.images[4].boxes) + len(shapes.images[2].boxes)
