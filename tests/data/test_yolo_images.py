"""Images of YOLO sets in the layouts that tools write, and what is told of those not taken."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from quantpipe.data.dataset import DetectionDataset
from quantpipe.data.yolo import read_yolo
from quantpipe.errors import DataError

DESCRIPTION = "names: [cat, dog]\n"
LABEL = "1 0.5 0.5 0.25 0.5\n"


def put(root: Path, images: Sequence[str], description: str = DESCRIPTION) -> Path:
    """Writes images with a label each, below ``labels`` where they lie below ``images``."""
    for name in images:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (64, 48)).save(path)
        label = Path(*("labels" if part == "images" else part for part in path.parts))
        label.parent.mkdir(parents=True, exist_ok=True)
        label.with_suffix(".txt").write_text(LABEL)
    (root / "data.yaml").write_text(description)
    return root


def read(root: Path, **changes: Any) -> DetectionDataset:
    arguments = {"max_bad_images": 0, "strict": False, "allow_unlabelled": False, **changes}
    return read_yolo(root, arguments.pop("split", "train"), **arguments)


def names(dataset: DetectionDataset) -> list[str]:
    assert dataset.counts["boxes"] == len(dataset.images)
    return [str(record.path.relative_to(dataset.root)) for record in dataset.images]


def told(dataset: DetectionDataset) -> dict[str, int]:
    """What was counted besides the contents."""
    own = {"images", "boxes", "crowd_boxes", "background_images"}
    return {kind: count for kind, count in dataset.counts.items() if count and kind not in own}


@pytest.mark.parametrize(
    ("train", "images"),
    [
        ("train/images", ["train/images/a.jpg"]),
        ("../train/images", ["train/images/a.jpg"]),
        ("blood cells/train/images", ["train/images/a.jpg"]),
        ("images/train/", ["images/train/a.jpg"]),
        ("images\\train", ["images/train/a.jpg"]),
        ("'images/*/*.jpg'", ["images/one/a.jpg", "images/two/b.jpg"]),
        ("'images/s?t'", ["images/set/a.jpg"]),
        ("[images/one, images/two]", ["images/one/a.jpg", "images/two/b.jpg"]),
        ("{root}/images/train", ["images/train/a.jpg"]),
    ],
)
def test_places_that_a_description_names(tmp_path: Path, train: str, images: list[str]) -> None:
    put(tmp_path, images, f"{DESCRIPTION}train: {train.format(root=tmp_path)}\n")
    dataset = read(tmp_path, strict=True)
    assert names(dataset) == images
    assert told(dataset) == ({"shortened_names": 1} if train.startswith("blood cells") else {})


def test_a_set_as_roboflow_exports_it(tmp_path: Path) -> None:
    """``name/train/images`` names the set itself before the folder; the validation is ``valid``."""
    text = "train: cells/train/images\nval: cells/valid/images\nnc: 2\nnames: ['cat', 'dog']\n"
    put(tmp_path, ["train/images/a.jpg", "valid/images/b.jpg"], text)
    assert names(read(tmp_path)) == ["train/images/a.jpg"]
    assert names(read(tmp_path, split="val")) == ["valid/images/b.jpg"]


def test_a_set_as_cvat_exports_it(tmp_path: Path) -> None:
    """YOLO 1.1: ``obj.data``, ``obj.names``, labels beside images, lists with ``data/`` before."""
    root = put(tmp_path, ["obj_train_data/a.jpg", "obj_train_data/deep/b.jpg"])
    (root / "data.yaml").unlink()
    (root / "obj.names").write_text("cat\ndog\n\n")
    (root / "obj.data").write_text(
        "classes = 2\ntrain = data/train.txt\nnames = data/obj.names\nbackup = backup/\n"
    )
    (root / "train.txt").write_text("data/obj_train_data/a.jpg\ndata/obj_train_data/deep/b.jpg\n")
    dataset = read(root, strict=True)
    assert names(dataset) == ["obj_train_data/a.jpg", "obj_train_data/deep/b.jpg"]
    assert dataset.class_names == ("cat", "dog")
    assert told(dataset) == {"shortened_names": 3}


def test_a_set_as_label_studio_exports_it(tmp_path: Path) -> None:
    """``classes.txt``, and no split: a list of each is needed, and its backslashes are mended."""
    root = put(tmp_path, ["images/a.jpg", "images/b.jpg"])
    (root / "data.yaml").unlink()
    (root / "classes.txt").write_text("cat\ndog\n")
    with pytest.raises(DataError, match=r"list the images of each in train\.txt and val\.txt"):
        read(root)
    (root / "train.txt").write_text("images\\b.jpg\nimages/a.jpg\n")
    dataset = read(root)
    assert names(dataset) == ["images/a.jpg", "images/b.jpg"]
    assert told(dataset) == {"mended_names": 1}
    with pytest.raises(DataError, match=r"images\\b\.jpg: read with slashes, as images/b\.jpg"):
        read(root, strict=True)


def test_a_description_one_folder_down_is_named(tmp_path: Path) -> None:
    put(tmp_path / "cells", ["train/images/a.jpg"])
    with pytest.raises(DataError, match=r"data set in cells: set data\.root="):
        read(tmp_path, class_names=("cat", "dog"))


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_marks_cost_no_first_line(tmp_path: Path, encoding: str) -> None:
    images = ["images/train/größe.jpg", "images/train/b.jpg"]
    put(tmp_path, images, f"{DESCRIPTION}train: list.txt\n")
    (tmp_path / "list.txt").write_text("\n".join(images))
    plain = read(tmp_path).fingerprint()
    texts = [tmp_path / "data.yaml", tmp_path / "list.txt", *tmp_path.rglob("labels/*/*.txt")]
    for path in texts:
        path.write_text(path.read_text(), encoding=encoding)
    assert len(texts) == 4
    assert read(tmp_path, strict=True).fingerprint() == plain


@pytest.mark.parametrize(
    "suffix", ["jpg", "JPG", "jpeg", "jfif", "jpe", "png", "avif", "webp", "bmp", "tif", "tiff"]
)
def test_all_that_pillow_decodes_is_read(tmp_path: Path, suffix: str) -> None:
    put(tmp_path, [f"images/train/a.{suffix}", "images/train/b.jpg"])
    assert len(read(tmp_path, strict=True).images) == 2


def test_other_files_are_told_by_suffix(tmp_path: Path) -> None:
    put(tmp_path, ["images/train/a.jpg"])
    for name in ("b.heic", "c.heic", "d.HEIC", "clip.mp4", "README", ".DS_Store", "Thumbs.db"):
        (tmp_path / "images/train" / name).touch()
    dataset = read(tmp_path, strict=True)
    assert told(dataset) == {"other_files": 6}
    line = "3 files of suffix .heic are not read as images, the first is images/train/b.heic"
    assert line in dataset.notes


def test_labels_of_no_image_are_told(tmp_path: Path) -> None:
    put(tmp_path, ["images/train/a.jpg", "images/train/deep/b.jpg"])
    for name in ("gone.txt", "deep/lost.txt", "classes.txt", ".hidden.txt"):
        (tmp_path / "labels/train" / name).write_text(LABEL)
    dataset = read(tmp_path)
    assert told(dataset) == {"labels_without_image": 2}
    assert set(dataset.notes) == {
        "label file labels/train/gone.txt belongs to no image",
        "label file labels/train/deep/lost.txt belongs to no image",
    }
    with pytest.raises(DataError, match="belongs to no image"):
        read(tmp_path, strict=True)


def test_linked_folders_inside_the_set_are_read(tmp_path: Path) -> None:
    put(tmp_path, ["images/train/a.jpg", "more/images/b.jpg"])
    (tmp_path / "images/train/linked").symlink_to(tmp_path / "more/images")
    dataset = read(tmp_path, strict=True)
    assert [record.path.name for record in dataset.images] == ["a.jpg", "b.jpg"]
    assert dataset.counts["boxes"] == 2  # the labels lie where the link leads
    assert not told(dataset)


@pytest.mark.parametrize("labels", ["labels/train", "store/labels"])
def test_a_linked_top_folder_has_labels_by_either_name(tmp_path: Path, labels: str) -> None:
    put(tmp_path, ["store/images/a.jpg"])
    (tmp_path / "images").mkdir()
    (tmp_path / "images/train").symlink_to(tmp_path / "store/images")
    if labels != "store/labels":
        (tmp_path / "labels").mkdir()
        (tmp_path / "store/labels").rename(tmp_path / labels)
    dataset = read(tmp_path, strict=True)
    assert dataset.counts["boxes"] == len(dataset.images) == 1
    assert not told(dataset)


def test_a_folder_is_read_once_however_many_links_lead_to_it(tmp_path: Path) -> None:
    put(tmp_path, ["images/train/a.jpg", "images/train/deep/b.jpg"])
    (tmp_path / "images/train/again").symlink_to("deep")
    (tmp_path / "images/train/deep/above").symlink_to("..")
    dataset = read(tmp_path)
    assert names(dataset) == ["images/train/a.jpg", "images/train/deep/b.jpg"]
    assert told(dataset) == {"linked_again": 2}


def test_a_linked_folder_that_leaves_is_refused(tmp_path: Path) -> None:
    root = put(tmp_path / "set", ["images/train/a.jpg"])
    put(tmp_path / "elsewhere", ["b.jpg"])
    (root / "images/train/linked").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(DataError, match="'images/train/linked' is a link out of the image folder"):
        read(root, max_bad_images=9)


def test_a_folder_that_may_not_be_read_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To the system's own listing it would be an empty one. The tests may run as root."""
    put(tmp_path, ["images/train/a.jpg", "images/train/deep/b.jpg"])
    scan = os.scandir

    def refuse(folder: Path) -> Any:
        if Path(folder).name == "deep":
            raise PermissionError(13, "Permission denied", str(folder))
        return scan(folder)

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(DataError, match=r"deep: cannot be read \(Permission denied\)"):
        read(tmp_path)


def test_hidden_images_are_no_background(tmp_path: Path) -> None:
    put(tmp_path, ["images/train/a.jpg"])
    for name in (".ipynb_checkpoints/a-checkpoint.jpg", ".cache/x/b.jpg", "._a.jpg"):
        path = tmp_path / "images/train" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (64, 48)).save(path)
    dataset = read(tmp_path, allow_unlabelled=True)
    assert names(dataset) == ["images/train/a.jpg"]
    assert told(dataset) == {"hidden_images": 3}
    kinds = Counter(line.split(", ")[0] for line in dataset.notes)
    assert kinds["folder images/train/.ipynb_checkpoints is hidden"] == 1


def test_what_is_read_under_a_shorter_name_is_told(tmp_path: Path) -> None:
    """It may be another folder than the one that was meant."""
    put(tmp_path, ["images/train/a.jpg"], f"{DESCRIPTION}train: old/set/images/train\n")
    dataset = read(tmp_path)
    assert dataset.notes == (
        "old/set/images/train: there is none, but images/train, which is read",
    )


def test_images_that_share_their_labels_are_told(tmp_path: Path) -> None:
    put(tmp_path, ["images/train/a.jpg", "images/train/a.png"])
    dataset = read(tmp_path)
    assert dataset.counts["boxes"] == 2
    assert told(dataset) == {"shared_labels": 1}


def test_a_pattern_finds_no_hidden_copies(tmp_path: Path) -> None:
    train = "'images/*/*.jpg'"
    put(tmp_path, ["images/one/a.jpg"], f"{DESCRIPTION}train: {train}\n")
    copy = tmp_path / "images/.ipynb_checkpoints/a-checkpoint.jpg"
    copy.parent.mkdir()
    Image.new("RGB", (64, 48)).save(copy)
    dataset = read(tmp_path, allow_unlabelled=True)
    assert names(dataset) == ["images/one/a.jpg"]
    assert told(dataset) == {"hidden_images": 1}


def test_an_image_that_is_named_again_is_told(tmp_path: Path) -> None:
    put(tmp_path, ["images/train/a.jpg"], f"{DESCRIPTION}train: [images/train, list.txt]\n")
    (tmp_path / "list.txt").write_text("images/train/a.jpg\n./images/train/a.jpg\n")
    dataset = read(tmp_path)
    assert names(dataset) == ["images/train/a.jpg"]
    assert told(dataset) == {"named_again": 2}


def test_a_link_in_a_ring_is_a_bad_image(tmp_path: Path) -> None:
    put(tmp_path, ["images/train/a.jpg"])
    (tmp_path / "images/train/b.jpg").symlink_to("b.jpg")
    with pytest.raises(DataError, match=r"b\.jpg \(a link that leads nowhere\)"):
        read(tmp_path)


@pytest.mark.parametrize(
    ("line", "cause"),
    [
        ("images/train/gone.jpg", r"1 bad images, 0 allowed: images/train/gone\.jpg \(no such f"),
        (".", r"\. \(is a folder, not a file\)"),
        ("/elsewhere/a.jpg", "'/elsewhere/a.jpg' leaves the image folder; .* lies elsewhere"),
        ("C:\\set\\a.jpg", "leaves the image folder; .* not from a drive"),
        ("../a.jpg", r"leaves the image folder; .* without '\.\.'"),
    ],
)
def test_lines_of_a_list_that_mean_nothing(tmp_path: Path, line: str, cause: str) -> None:
    put(tmp_path, ["images/train/a.jpg"], f"{DESCRIPTION}train: list.txt\n")
    (tmp_path / "list.txt").write_text(f"images/train/a.jpg\n{line}\n")
    with pytest.raises(DataError, match=cause):
        read(tmp_path)


def test_an_absolute_line_inside_the_set_is_one(tmp_path: Path) -> None:
    put(tmp_path, ["images/train/a.jpg"], f"{DESCRIPTION}train: list.txt\n")
    (tmp_path / "list.txt").write_text(f"{tmp_path}/images/train/a.jpg\n")
    assert names(read(tmp_path, strict=True)) == ["images/train/a.jpg"]
