from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from quantpipe.data.yolo import read_yolo
from quantpipe.errors import DataError

NAMES = ("cat", "dog")


def put(root: Path, image: str, label: str | None, text: str | None = "1 0.5 0.5 0.25 0.5") -> None:
    path = root / image
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (64, 48)).save(path)
    if label is not None and text is not None:
        (root / label).parent.mkdir(parents=True, exist_ok=True)
        (root / label).write_text(text)


def read(root: Path, **changes: Any) -> Any:
    arguments: dict[str, Any] = {
        "class_names": NAMES,
        "max_bad_images": 0,
        "strict": False,
        "allow_unlabelled": False,
        **changes,
    }
    return read_yolo(root, arguments.pop("split", "train"), **arguments)


@pytest.mark.parametrize(
    ("image", "label", "split"),
    [
        ("images/train/a.jpg", "labels/train/a.txt", "train"),
        ("train/images/a.jpg", "train/labels/a.txt", "train"),
        ("images/train2017/a.jpg", "labels/train2017/a.txt", "train"),
        ("valid/images/deep/a.jpg", "valid/labels/deep/a.txt", "val"),
    ],
)
def test_layouts(tmp_path: Path, image: str, label: str, split: str) -> None:
    put(tmp_path, image, label)
    dataset = read(tmp_path, split=split)
    (record,) = dataset.images
    assert record.boxes.tolist() == [[24, 12, 40, 36]]
    assert record.labels.tolist() == [1]
    assert dataset.category_ids == (1, 2)
    assert dataset.class_names == NAMES


@pytest.mark.parametrize(
    "names", ["[cat, dog]", "{0: cat, 1: dog}", "\n- cat\n- dog", "\n  1: dog\n  0: cat"]
)
@pytest.mark.parametrize("place", ["shots/images", "../shots/images", "[shots/images]", "list.txt"])
def test_data_yaml(tmp_path: Path, names: str, place: str) -> None:
    put(tmp_path, "shots/images/a.jpg", "shots/labels/a.txt")
    (tmp_path / "list.txt").write_text("./shots/images/a.jpg\n")
    (tmp_path / "data.yaml").write_text(f"names: {names}\nnc: 2\ntrain: {place}\n")
    dataset = read(tmp_path, class_names=None)
    assert dataset.class_names == NAMES
    assert dataset.counts["boxes"] == 1


@pytest.mark.parametrize(
    ("text", "cause"),
    [
        ("names: {1: a, 2: b}", "count from 0"),
        ("names: [a]\nnc: 2", "nc is 2"),
        ("train: images", "no class names"),
        ("names: [[a], [b]]", "the name of class 0 is .* no text"),
        ("names: [a, '']", "the name of class 1 is '', no text"),
        ("names: []", "no class names"),
        ("a: &a [x]\nnames: *a", "an alias, which is not read"),
        ("names: " + "[" * 5_000, "not YAML"),
        ("[1, 2]", "no mapping"),
        ("{", "not YAML"),
        ("names: !!python/object/apply:os.system ['touch canary']", "not YAML"),
        ("names: [a, b]\ntrain: /etc", "leaves"),
        ("names: [a, b]\ntrain: ../../etc", "leaves"),
        ("names: [a, b]\ntrain: gone", "no folder or list"),
        ("names: [a, b]\ntrain: 5", "no folder or list of images '5'"),
        ("names: [a, b]\ntrain: [[x]]", "not a usable text"),
        ("names: [a, b]\nnames: [b, a]", "'names' is there twice"),
        ("names: {0: a, 00: b}", "does not count from 0"),
        ("names: [a]\nkpt_shape: [5]", "write .number of points"),
        ("names: [a]\nkpt_shape: [0, 2]", "kpt_shape"),
    ],
)
def test_descriptions_that_mean_nothing(tmp_path: Path, text: str, cause: str) -> None:
    put(tmp_path, "images/train/a.jpg", "labels/train/a.txt")
    (tmp_path / "data.yaml").write_text(text)
    with pytest.raises(DataError, match=cause):
        read(tmp_path, class_names=None)
    assert not Path("canary").exists()


def test_a_pipe_instead_of_labels_is_not_waited_for(tmp_path: Path) -> None:
    put(tmp_path, "images/train/a.jpg", None)
    (tmp_path / "labels" / "train").mkdir(parents=True, exist_ok=True)
    os.mkfifo(tmp_path / "labels" / "train" / "a.txt")
    with pytest.raises(DataError, match="not a regular file"):
        read(tmp_path)


def test_a_missing_label_file_is_named_unless_allowed(tmp_path: Path) -> None:
    put(tmp_path, "images/train/a.jpg", "labels/train/a.txt")
    put(tmp_path, "images/train/b.jpg", None)
    with pytest.raises(DataError, match=r"1 label files missing: labels/train/b.txt; add them"):
        read(tmp_path)
    dataset = read(tmp_path, allow_unlabelled=True)
    assert dataset.counts["unlabelled_images"] == 1
    assert dataset.counts["background_images"] == 1


def test_an_empty_label_file_says_no_objects(tmp_path: Path) -> None:
    put(tmp_path, "images/train/a.jpg", "labels/train/a.txt")
    put(tmp_path, "images/train/b.jpg", "labels/train/b.txt", "\n")
    assert read(tmp_path, strict=True).counts["background_images"] == 1


@pytest.mark.parametrize(
    ("line", "expected", "kind"),
    [
        ("0 0.0 0.5 0.5 0.5", [0, 12, 16, 36], "clipped"),
        ("0 2 2 0.1 0.1", None, "dropped"),
        ("0 0.5 0.5 0 0.1", None, "dropped"),
        ("0 0.5 0.5 -0.2 -0.1", None, "dropped"),
        ("0 nan 0.5 0.2 0.1", None, "dropped"),
        ("0 0.5 0.5 0.2", None, "dropped"),
        ("0 0.5 0.5 0.2 0.1 0.9", None, "dropped"),
        ("cat 0.5 0.5 0.2 0.1", None, "dropped"),
        ("0 0.1 0.1 nan 0.5 0.2 0.3", None, "dropped"),
    ],
)
def test_bad_lines(tmp_path: Path, line: str, expected: Any, kind: str) -> None:
    put(tmp_path, "images/train/a.jpg", "labels/train/a.txt", f"1 0.5 0.5 0.25 0.5\n{line}\n")
    dataset = read(tmp_path)
    assert dataset.counts[kind] == 1
    assert "train/a.txt line 2" in dataset.notes[0]
    assert dataset.images[0].boxes[1:].tolist() == ([] if expected is None else [expected])
    with pytest.raises(DataError, match="line 2"):
        read(tmp_path, strict=True)


@pytest.mark.parametrize("label", ["2", "-1", "0.5", "nan"])
def test_unknown_classes_are_refused(tmp_path: Path, label: str) -> None:
    put(tmp_path, "images/train/a.jpg", "labels/train/a.txt", f"{label} 0.5 0.5 0.25 0.5")
    with pytest.raises(DataError, match="unknown class"):
        read(tmp_path)


def test_outlines_become_boxes(tmp_path: Path) -> None:
    put(tmp_path, "images/train/a.jpg", "labels/train/a.txt", "0 0.25 0.5 0.5 0.25 0.75 1.0")
    np.testing.assert_allclose(read(tmp_path).images[0].boxes, [[16, 12, 48, 48]])


def test_boxes_are_of_the_upright_image(tmp_path: Path) -> None:
    put(tmp_path, "images/train/a.jpg", "labels/train/a.txt")
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (64, 48)).save(tmp_path / "images/train/a.jpg", exif=exif)
    (record,) = read(tmp_path).images
    assert (record.width, record.height) == (48, 64)
    assert record.boxes.tolist() == [[18, 16, 30, 48]]


def test_bad_images_are_listed_or_skipped(tmp_path: Path) -> None:
    put(tmp_path, "images/train/a.jpg", "labels/train/a.txt")
    put(tmp_path, "images/train/b.jpg", "labels/train/b.txt")
    (tmp_path / "images/train/a.jpg").write_bytes(b"")
    with pytest.raises(DataError, match=r"images/train/a\.jpg \(empty file\)"):
        read(tmp_path)
    dataset = read(tmp_path, max_bad_images=1)
    assert [record.image_id for record in dataset.images] == [2]


@pytest.mark.parametrize("kind", ["image", "label", "listed"])
def test_files_outside_are_never_opened(tmp_path: Path, kind: str) -> None:
    root = tmp_path / "set"
    put(root, "images/train/a.jpg", "labels/train/a.txt")
    os.mkfifo(tmp_path / "canary.jpg")  # opening it would hang
    if kind == "image":
        (root / "images/train/b.jpg").symlink_to(tmp_path / "canary.jpg")
    elif kind == "label":
        (root / "labels/train/a.txt").unlink()
        (root / "labels/train/a.txt").symlink_to(tmp_path / "canary.jpg")
    else:
        (root / "data.yaml").write_text("train: list.txt")
        (root / "list.txt").write_text("../canary.jpg")
    with pytest.raises(DataError, match="image folder"):
        read(root, max_bad_images=9)


def test_an_empty_set(tmp_path: Path) -> None:
    put(tmp_path, "images/train/a.jpg", "labels/train/a.txt", "")
    with pytest.raises(DataError, match="empty"):
        read(tmp_path)
    with pytest.raises(DataError, match="no images: looked for images/val"):
        read(tmp_path, split="val")
    with pytest.raises(DataError, match="no such folder"):
        read(tmp_path / "gone")
