from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from quantpipe.core.stage import Context
from quantpipe.errors import ConfigurationError, DataError
from quantpipe.progress import Silent
from quantpipe.schema import build, convert
from quantpipe.settings.data import (
    CocoSettings,
    DataSettings,
    ShapesSettings,
    YoloSettings,
    check_data,
    choose_images,
    coco_at,
    data_content,
    open_split,
)

SHAPES: dict[str, Any] = {
    "format": "shapes",
    "num_train": 3,
    "num_val": 2,
    "image_size": 64,
    "num_classes": 2,
    "difficulty": 0.0,
    "seed": 5,
}
COCO: dict[str, Any] = {
    "format": "coco",
    "root": None,
    "train_images": None,
    "train_annotations": None,
    "val_images": None,
    "val_annotations": None,
    "max_bad_images": 0,
    "strict": True,
}
YOLO: dict[str, Any] = {
    "format": "yolo",
    "root": "data",
    "class_names": None,
    "allow_unlabelled": False,
    "max_bad_images": 0,
    "strict": False,
}


def settings(**values: Any) -> DataSettings:
    made: DataSettings = convert(DataSettings, values, "data")
    return made


def write_coco(root: Path, split: str, color: int = 0) -> None:
    (root / split).mkdir(parents=True)
    (root / "annotations").mkdir(exist_ok=True)
    pixels = np.full((64, 64, 3), color, dtype=np.uint8)
    Image.fromarray(pixels).save(root / split / "a.png")
    (root / "annotations" / f"instances_{split}.json").write_text(
        json.dumps(
            {
                "images": [{"id": 1, "file_name": "a.png", "width": 64, "height": 64}],
                "categories": [{"id": 1, "name": "thing"}],
                "annotations": [
                    {
                        "id": 1,
                        "image_id": 1,
                        "category_id": 1,
                        "bbox": [1, 2, 30, 40],
                        "area": 1200,
                        "iscrowd": 0,
                    }
                ],
            }
        )
    )


@pytest.mark.parametrize(
    ("values", "kind"),
    [(SHAPES, ShapesSettings), (COCO | {"root": "x"}, CocoSettings), (YOLO, YoloSettings)],
)
def test_the_format_tells_the_kinds_apart(values: dict[str, Any], kind: type) -> None:
    assert type(settings(**values)) is kind


@pytest.mark.parametrize(
    ("values", "line"),
    [
        (
            SHAPES | {"image_size": [64, 96]},
            "data.image_size: generated images are square, not [64, 96]; set data.image_size=96",
        ),
        (SHAPES | {"format": "shape"}, "data.format: 'shape' is unknown; did you mean 'shapes'?"),
        (SHAPES | {"num_train": 0}, "data.num_train: 0 is not between"),
        (SHAPES | {"difficulty": 1.5}, "data.difficulty: 1.5 is not between 0 and 1"),
        (COCO, "data.train_images: no data set is named; set data.root=FOLDER"),
        (COCO | {"train_images": "x"}, "data.train_annotations: no data set is named"),
        (YOLO | {"root": None}, "data.root: None is not a path"),
        (YOLO | {"class_names": "a"}, "data.class_names: 'a' is not a list"),
        (COCO | {"root": "x", "allow_unlabelled": True}, "data.allow_unlabelled: there is no such"),
    ],
)
def test_mistakes_are_named(values: dict[str, Any], line: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        settings(**values)
    assert str(caught.value).startswith(line)


def test_missing_folders_are_found_without_reading(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no such folder; see data\.root"):
        check_data(settings(**COCO | {"root": str(tmp_path / "nowhere")}))
    with pytest.raises(DataError):
        check_data(settings(**COCO | {"root": str(tmp_path)}))  # there, but no COCO data set
    check_data(settings(**SHAPES))


def test_the_content_of_a_data_set_is_its_pixels_and_boxes_not_its_place(tmp_path: Path) -> None:
    digests = []
    for name, color in (("a", 0), ("b", 0), ("c", 1)):
        for split in ("train", "val"):
            write_coco(tmp_path / name, split, color if split == "val" else 0)
        found = data_content(coco_at(tmp_path / name), ("train", "val"), tmp_path / "memo" / name)
        assert set(found) == {"train", "val"}
        digests.append(found)
    assert digests[0] == digests[1]
    assert digests[0]["train"] == digests[2]["train"]
    assert digests[0]["val"] != digests[2]["val"]


def test_only_the_splits_that_are_used_are_named(tmp_path: Path) -> None:
    write_coco(tmp_path, "val")
    assert set(data_content(coco_at(tmp_path), ("val",), tmp_path / "memo")) == {"val"}


def test_digests_are_remembered_in_the_folder_of_the_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("quantpipe.data.contents._SETTLED_NS", -1)  # files this new are not kept
    write_coco(tmp_path, "val")
    memo = tmp_path / "memo"
    first = data_content(coco_at(tmp_path), ("val",), memo)
    assert list(json.loads((memo / "images-val.json").read_text())["images"]) == ["a.png"]
    assert data_content(coco_at(tmp_path), ("val",), memo) == first


def test_generated_data_is_named_by_its_settings(tmp_path: Path) -> None:
    assert set(data_content(settings(**SHAPES), ("train", "val"), tmp_path)) == {"shapes"}


def test_generated_data_is_generated_once_and_read_as_coco(tmp_path: Path) -> None:
    made: list[dict[str, Any]] = []

    def materialize(named_by: Any, build_into: Any) -> Path:
        folder = tmp_path / "shapes"
        if not made:
            folder.mkdir()
            build_into(folder)
        made.append(dict(named_by))
        return folder

    context = Context(
        step="s",
        seed=0,
        device="cpu",
        progress=Silent(),
        progress_folder=tmp_path,
        materialize=materialize,
        memo=tmp_path / "memo",
    )
    shapes = build(ShapesSettings, SHAPES, "data")
    assert len(open_split(shapes, "train", context).images) == 3
    assert len(open_split(shapes, "val", context).images) == 2
    assert made[0] == made[1]
    assert made[0]["data"] == SHAPES


def test_splits_of_other_classes_are_refused(tmp_path: Path) -> None:
    write_coco(tmp_path, "train")
    write_coco(tmp_path, "val")
    path = tmp_path / "annotations" / "instances_val.json"
    path.write_text(path.read_text().replace("thing", "other"))
    with pytest.raises(DataError, match=r"classes other, .* has thing; give both the same"):
        data_content(coco_at(tmp_path), ("train", "val"), tmp_path / "memo")


class Notes(Silent):
    """Keeps the lines."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def note(self, text: str) -> None:
        self.lines.append(text)


def watched(tmp_path: Path) -> tuple[Context, list[str]]:
    progress = Notes()
    context = Context(
        step="calibrate",
        seed=0,
        device="cpu",
        progress=progress,
        progress_folder=tmp_path / "progress",
        materialize=lambda named_by, build_into: tmp_path,
        memo=tmp_path / "memo",
    )
    return context, progress.lines


def test_what_was_found_is_said_once(tmp_path: Path) -> None:
    write_coco(tmp_path, "val")
    Image.new("RGB", (8, 8)).save(tmp_path / "val" / "other.png")
    context, lines = watched(tmp_path)
    for _ in range(2):
        open_split(coco_at(tmp_path), "val", context)
    assert lines == [
        "calibrate: instances val: 1 images, 1 boxes, 1 unlisted images",
        "  1 images of the folder are not listed, the first is other.png",
    ]


def test_fewer_images_than_asked_for_are_all_used_and_that_is_said(tmp_path: Path) -> None:
    write_coco(tmp_path, "val")
    context, lines = watched(tmp_path)
    dataset = open_split(coco_at(tmp_path), "val", context)
    lines.clear()
    assert choose_images(dataset, 1, context) == (0,)
    assert lines == []
    assert choose_images(dataset, 128, context) == (0,)
    assert lines == ["calibrate: 128 images were asked for, instances_val has 1: all are used"]


def test_damaged_images_are_counted_before_anything_is_trained(tmp_path: Path) -> None:
    """A PNG with zeros in the middle and a whole end; the digests name what is left."""
    for split in ("train", "val"):
        write_coco(tmp_path, split)
    path = tmp_path / "train" / "a.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)).save(
        path
    )
    content = bytearray(path.read_bytes())
    content[2000:2100] = bytes(100)
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"1 bad images, 0 allowed: a\.png \(damaged: the checksum"):
        data_content(coco_at(tmp_path), ("train", "val"), tmp_path / "memo")
