from __future__ import annotations

import json
import os
import shutil
import time
from pathlib import Path

import numpy as np
import pytest

from quantpipe.data.coco import read_coco
from quantpipe.data.coco_layout import find_coco_split
from quantpipe.data.dataset import DetectionDataset
from quantpipe.files import sha256_file


def read(root: Path) -> DetectionDataset:
    return read_coco(*find_coco_split(root, "train"), max_bad_images=0, strict=True)


@pytest.fixture
def copy(shapes_folder: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(shapes_folder, tmp_path / "copy"))


def settle(root: Path) -> None:
    """Waits until no file counts as just changed."""
    newest = max(path.stat().st_ctime for path in root.rglob("*.jpg"))
    time.sleep(max(0.0, newest + 0.06 - time.time()))


def flip_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-20] ^= 1
    path.write_bytes(bytes(content))


def test_fingerprint_is_of_content_and_not_of_place(shapes: DetectionDataset, copy: Path) -> None:
    print_here = shapes.fingerprint(None)
    assert print_here == shapes.fingerprint(None)
    assert read(copy).fingerprint(None) == print_here
    renamed = copy / "annotations" / "instances_train.json"
    text = renamed.read_text().replace("000000.jpg", "other.jpg")
    (copy / "train" / "000000.jpg").rename(copy / "train" / "other.jpg")
    renamed.write_text(text)
    assert read(copy).fingerprint(None) == print_here


def test_fingerprint_sees_a_bit_of_an_image(shapes: DetectionDataset, copy: Path) -> None:
    flip_bit(copy / "train" / "000003.jpg")
    assert read(copy).fingerprint(None) != shapes.fingerprint(None)


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
    assert read(copy).fingerprint(None) != shapes.fingerprint(None)


def test_memo_saves_reading(copy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settle(copy)
    memo = tmp_path / "memo.json"
    dataset = read(copy)
    expected = dataset.fingerprint(memo)
    hashed: list[Path] = []

    def spy(path: Path) -> str:
        hashed.append(path)
        return sha256_file(path)

    monkeypatch.setattr("quantpipe.data.dataset.sha256_file", spy)
    assert dataset.fingerprint(memo) == expected
    assert hashed == []
    before = (copy / "train" / "000003.jpg").stat()
    flip_bit(copy / "train" / "000003.jpg")
    os.utime(copy / "train" / "000003.jpg", ns=(before.st_atime_ns, before.st_mtime_ns))
    assert dataset.fingerprint(memo) != expected  # same size and same modification time
    assert [path.name for path in hashed] == ["000003.jpg"]


def test_a_file_that_just_changed_is_not_remembered(copy: Path, tmp_path: Path) -> None:
    settle(copy)
    memo = tmp_path / "memo.json"
    ahead = time.time_ns() + 10**10  # as after the clock went back
    os.utime(copy / "train" / "000001.jpg", ns=(ahead, ahead))
    read(copy).fingerprint(memo)
    remembered = json.loads(memo.read_text())["images"]
    assert "000001.jpg" not in remembered
    assert len(remembered) == 17


@pytest.mark.parametrize("text", ["", "[1]", '{"000000.jpg": 5}', '{"000000.jpg": ["x", "y"]}'])
def test_a_damaged_memo_only_costs_time(
    shapes: DetectionDataset, tmp_path: Path, text: str
) -> None:
    memo = tmp_path / "memo.json"
    memo.write_text(text)
    assert shapes.fingerprint(memo) == shapes.fingerprint(None)


def test_a_digit_changed_in_a_memo_names_no_other_data_set(copy: Path, tmp_path: Path) -> None:
    settle(copy)
    memo = tmp_path / "memo.json"
    expected = read(copy).fingerprint(memo)
    whole = memo.read_bytes()
    for position in range(0, len(whole), 37):
        changed = bytearray(whole)
        changed[position] ^= 1
        memo.write_bytes(changed)
        assert read(copy).fingerprint(memo) == expected


def test_a_memo_that_cannot_be_written_costs_no_more_than_time(copy: Path, tmp_path: Path) -> None:
    settle(copy)
    (tmp_path / "file").write_text("in the way")
    dataset = read(copy)
    assert dataset.fingerprint(tmp_path / "file" / "memo.json") == dataset.fingerprint(None)


def test_ground_truth_gives_back_what_was_read(
    shapes: DetectionDataset, shapes_folder: Path
) -> None:
    made = shapes.coco_ground_truth()
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
