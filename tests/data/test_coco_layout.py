"""The layouts in which tools write COCO data sets are found, and others are told what to name."""

from __future__ import annotations

from pathlib import Path

import pytest

from quantpipe.data.coco_layout import find_coco_split
from quantpipe.errors import DataError


def annotate(root: Path, name: str) -> Path:
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
    return path


@pytest.mark.parametrize("images", ["train", "train2017", "images/train", "images/train2017"])
@pytest.mark.parametrize("annotations", ["instances_train", "instances_train2017"])
def test_usual_layouts_are_found(tmp_path: Path, images: str, annotations: str) -> None:
    (tmp_path / images).mkdir(parents=True)
    (tmp_path / "annotations").mkdir()
    (tmp_path / "annotations" / f"{annotations}.json").touch()
    found = find_coco_split(tmp_path, "train")
    assert found == (tmp_path / images, tmp_path / "annotations" / f"{annotations}.json")
    with pytest.raises(DataError, match="val2017"):
        find_coco_split(tmp_path, "val")


@pytest.mark.parametrize("name", ["val", "valid", "validation", "Validation"])
def test_names_of_the_validation_split(tmp_path: Path, name: str) -> None:
    """CVAT names splits as its user did, with a capital letter by default."""
    (tmp_path / "images" / name).mkdir(parents=True)
    file = annotate(tmp_path, f"annotations/{name}.json")
    assert find_coco_split(tmp_path, "val") == (tmp_path / "images" / name, file)
    file = annotate(tmp_path, f"annotations/instances_{name}.json")
    assert find_coco_split(tmp_path, "val") == (tmp_path / "images" / name, file)


def test_annotations_beside_their_images(tmp_path: Path) -> None:
    """As Roboflow exports COCO."""
    train = annotate(tmp_path, "train/_annotations.coco.json")
    val = annotate(tmp_path, "valid/_annotations.coco.json")
    assert find_coco_split(tmp_path, "train") == (tmp_path / "train", train)
    assert find_coco_split(tmp_path, "val") == (tmp_path / "valid", val)


def test_one_folder_of_images_for_all_splits(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    file = annotate(tmp_path, "annotations/instances_train.json")
    assert find_coco_split(tmp_path, "train") == (tmp_path / "images", file)


def test_what_is_there_is_named(tmp_path: Path) -> None:
    annotate(tmp_path, "annotations/instances_default.json")
    with pytest.raises(DataError, match=r"there is instances_default\.json: name data\.train_anno"):
        find_coco_split(tmp_path, "train")
    annotate(tmp_path, "inner/set/train/_annotations.coco.json")
    with pytest.raises(DataError, match=r"data set in set: set data\.root=.*/inner/set"):
        find_coco_split(tmp_path / "inner", "train")
