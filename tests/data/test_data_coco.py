from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask
from pycocotools.coco import COCO
from tests.data.coco_document import coco_document

from quantpipe.data.coco import read_coco
from quantpipe.data.coco_layout import find_coco_split
from quantpipe.errors import DataError

Box = Callable[..., dict[str, Any]]
Make = Callable[..., tuple[Path, Path]]
BCCD = Path(__file__).parents[2].parent / "shared" / "data" / "bccd"


def read(paths: tuple[Path, Path], *, max_bad_images: int = 0, strict: bool = False) -> Any:
    return read_coco(*paths, max_bad_images=max_bad_images, strict=strict)


def test_labels_follow_the_order_of_ids(make_coco: Make) -> None:
    dataset = read(make_coco(), strict=True)
    assert dataset.class_names == ("airplane", "toothbrush")
    assert dataset.category_ids == (5, 90)
    first, second = dataset.images
    assert (first.image_id, first.path.name, first.width, first.height) == (7, "a.jpg", 64, 48)
    np.testing.assert_array_equal(first.boxes, np.array([[10, 12, 30, 28]]))
    assert first.labels.tolist() == [1]
    assert second.labels.tolist() == [0]
    assert dataset.counts["images"] == 2
    assert dataset.counts["boxes"] == 2


@pytest.mark.parametrize(
    ("bbox", "expected", "kind"),
    [
        ([-5, -5, 20, 20], [0, 0, 15, 15], "clipped"),
        ([60, 40, 100, 100], [60, 40, 64, 48], "clipped"),
        ([10, 10, 0, 5], None, "dropped"),
        ([10, 10, -4, -4], None, "dropped"),
        ([100, 100, 5, 5], None, "dropped"),
        ([-1e9, 4, -5, 9], None, "dropped"),
        ([float("nan"), 1, 5, 5], None, "dropped"),
        ([1, 1, float("inf"), 5], None, "dropped"),
        ([1, 1, 10**400, 5], None, "dropped"),
        (["x", 1, 5, 5], None, "dropped"),
        (["1", 1, " 5.5", 5], [1, 1, 6.5, 6], "mended_boxes"),
        ([1, 1, 5], None, "dropped"),
        ("10 10 5 5", None, "dropped"),
        (None, None, "dropped"),
    ],
)
def test_bad_boxes(make_coco: Make, box: Box, bbox: Any, expected: Any, kind: str) -> None:
    good = box(1, 7, 5, [1, 1, 5, 5])
    paths = make_coco(annotations=[good, box(2, 7, 5, bbox, area=9)])
    dataset = read(paths)
    assert dataset.counts[kind] == 1
    assert len(dataset.notes) == 1
    assert "annotation 2" in dataset.notes[0]
    rest = dataset.images[0].boxes[1:].tolist()
    assert rest == ([] if expected is None else [expected])
    with pytest.raises(DataError, match="annotation 2"):
        read(paths, strict=True)


def test_boxes_off_by_rounding_are_no_fault(make_coco: Make, box: Box) -> None:
    dataset = read(make_coco(annotations=[box(1, 7, 5, [60, 40, 4.3, 8.2])]), strict=True)
    assert dataset.images[0].boxes.tolist() == [[60, 40, 64, 48]]
    assert dataset.counts["clipped"] == 0


@pytest.mark.parametrize("ids", [(0, 1), (4, 4), (None, 2), ("1", 2)])
def test_annotation_ids_are_mended(make_coco: Make, box: Box, ids: tuple[Any, Any]) -> None:
    annotations = [box(number, 7, 5, [1, 1, 9, 9]) for number in ids]
    paths = make_coco(annotations=annotations)
    dataset = read(paths)
    assert dataset.counts["mended_ids"] == 1
    assert [a["id"] for a in coco_document(dataset)["annotations"]] == [1, 2]
    with pytest.raises(DataError):
        read(paths, strict=True)


def test_missing_fields_are_mended(make_coco: Make, box: Box) -> None:
    entry = box(1, 7, 5, [1, 2, 3, 4])
    del entry["area"], entry["iscrowd"]
    paths = make_coco(annotations=[entry])
    dataset = read(paths)
    assert dataset.counts["mended_fields"] == 1
    (made,) = coco_document(dataset)["annotations"]
    assert (made["area"], made["iscrowd"]) == (12.0, 0)
    with pytest.raises(DataError):
        read(paths, strict=True)


def outlines() -> dict[str, Any]:
    """The same outline in each form, with what pycocotools says of the mask."""
    pixels = np.zeros((48, 64), dtype=np.uint8, order="F")
    pixels[12:28, 10:30] = 1
    packed = mask.encode(pixels)
    return {
        "polygon": [[10, 12, 30, 12, 30, 28, 10, 28]],
        "a flat polygon": [10, 12, 30, 12, 30, 28, 10, 28],
        "points": [[[10, 12], [30, 12], [30, 28], [10, 28]]],
        "two polygons": [[10, 12, 20, 12, 20, 20], [20, 20, 30, 20, 30, 28.0]],
        "compressed": {"size": [48, 64], "counts": packed["counts"].decode()},
        "run lengths": {"size": [48, 64], "counts": run_lengths(pixels)},
    }


def run_lengths(pixels: np.ndarray[Any, Any]) -> list[int]:
    flat = pixels.ravel(order="F")
    ends = np.flatnonzero(np.diff(flat)) + 1
    lengths: list[int] = np.diff([0, *ends, len(flat)]).tolist()
    return lengths


@pytest.mark.parametrize(
    "form",
    ["polygon", "a flat polygon", "points", "two polygons", "compressed", "run lengths"],
)
@pytest.mark.parametrize("bbox", [None, [], [0, 0, 0, 0]])
def test_a_box_that_is_missing_follows_from_the_outline(
    make_coco: Make, box: Box, form: str, bbox: Any
) -> None:
    entry = box(2, 3, 5, bbox, segmentation=outlines()[form], area=320)
    paths = make_coco(annotations=[box(1, 7, 5, [1, 1, 5, 5]), entry])
    dataset = read(paths)
    assert dataset.images[1].boxes.tolist() == [[10, 12, 30, 28]]
    assert dataset.images[1].areas.tolist() == [320]
    assert dataset.counts["boxes_from_outlines"] == 1
    assert dataset.counts["background_images"] == dataset.counts["dropped"] == 0
    with pytest.raises(DataError, match="outline; the first is annotation 2"):
        read(paths, strict=True)


@pytest.mark.parametrize(
    "segmentation",
    [
        [],
        [[]],
        [[1, 2, 3]],
        [["1", 2, 3, 4, 5, 6]],
        "12345678",
        ["12345678"],
        {"size": [48, 64]},
        {"size": [48], "counts": [1]},
        {"size": [48, 64], "counts": [1, 2, 3]},
        {"size": [48, 64], "counts": [-48, 48, 3072]},
        {"size": [48, 64], "counts": "\ud800"},
        {"size": [48, 64], "counts": "ooooo"},
        {"size": [2**40, 2**40], "counts": "0"},
    ],
)
def test_outlines_that_mean_nothing_are_dropped(
    make_coco: Make, box: Box, segmentation: Any
) -> None:
    entry = box(2, 3, 5, None, segmentation=segmentation)
    dataset = read(make_coco(annotations=[box(1, 7, 5, [1, 1, 5, 5]), entry]))
    assert dataset.counts["dropped"] == 1
    assert "annotation 2 (b.jpg): has no box that can be read, dropped" in dataset.notes


@pytest.mark.parametrize(
    ("annotations", "why"),
    [
        ([], "nothing is annotated"),
        ([{"bbox": None}], "1 dropped, first: annotation 1 .a.jpg.: has no box"),
        ([{"bbox": [1, 1, 5, 5], "iscrowd": 1}], "1 crowd boxes"),
        ([{"bbox": [1, 1, 5, 5], "image_id": 9}], "1 unknown images, first: annotation 1: unkn"),
    ],
)
def test_an_empty_set_says_why(make_coco: Make, annotations: Any, why: str) -> None:
    whole = {"id": 1, "image_id": 7, "category_id": 5, "area": 9, "iscrowd": 0}
    paths = make_coco(annotations=[{**whole, **changes} for changes in annotations])
    with pytest.raises(DataError, match=rf"empty \(2 images, 0 boxes\): {why}"):
        read(paths)


def test_normalized_boxes_are_refused(make_coco: Make, box: Box) -> None:
    boxes = [box(1, 7, 5, [0.1, 0.2, 0.3, 0.4]), box(2, 3, 90, [0, 0, 1, 1])]
    with pytest.raises(DataError, match=r"2 of 2 boxes lie within the first pixel, the first is a"):
        read(make_coco(annotations=boxes))


def test_a_few_boxes_within_the_first_pixel_are_told(make_coco: Make, box: Box) -> None:
    boxes = [box(1, 7, 5, [0.1, 0.2, 0.3, 0.4]), box(2, 3, 90, [0, 0, 20, 20])]
    paths = make_coco(annotations=boxes)
    dataset = read(paths)
    assert dataset.counts["boxes"] == 2
    assert dataset.counts["boxes_in_first_pixel"] == 1
    with pytest.raises(DataError, match="1 of 2 boxes lie within the first pixel"):
        read(paths, strict=True)
    boxes[0]["bbox"] = [30.1, 20.2, 0.3, 0.4]  # a small object elsewhere is one
    assert read(make_coco(annotations=boxes), strict=True).counts["boxes"] == 2


def test_classes_of_one_name_are_told_apart(make_coco: Make) -> None:
    paths = make_coco(categories=[{"id": 5, "name": "cell"}, {"id": 90, "name": "cell"}])
    dataset = read(paths)
    assert dataset.class_names == ("cell", "cell (1)")
    assert dataset.counts["renamed_classes"] == 1
    with pytest.raises(DataError, match="classes 0 and 1 are both called 'cell'"):
        read(paths, strict=True)


@pytest.mark.parametrize("write", [str, float, lambda number: f"{number}.0"])
def test_ids_and_sizes_as_text_or_fractions(make_coco: Make, box: Box, write: Any) -> None:
    """As pandas and spreadsheets leave them."""
    images = [{"id": write(7), "file_name": "a.jpg", "width": "64", "height": "48"}]
    categories = [{"id": write(90), "name": "toothbrush"}, {"id": write(5), "name": "airplane"}]
    entry = box(1, write(7), write(90), [1, 1, 5, 5])
    paths = make_coco(images=images, categories=categories, annotations=[entry])
    dataset = read(paths)
    assert dataset.category_ids == (5, 90)
    assert dataset.images[0].image_id == 7
    assert dataset.images[0].labels.tolist() == [1]
    assert dataset.counts["mended_ids"] == 5
    assert dataset.counts["mended_sizes"] == 1
    with pytest.raises(DataError, match="not written as integers"):
        read(paths, strict=True)


def test_an_image_may_be_named_from_above_or_by_windows(make_coco: Make, box: Box) -> None:
    images = [
        {"id": 7, "file_name": "train\\a.jpg", "width": 64, "height": 48},
        {"id": 3, "file_name": "data//images/b.jpg", "width": 64, "height": 48},
    ]
    paths = make_coco(images=images)
    dataset = read(paths)
    assert [record.path.name for record in dataset.images] == ["a.jpg", "b.jpg"]
    assert dataset.counts["mended_names"] == 3
    with pytest.raises(DataError, match="read with slashes"):
        read(paths, strict=True)


def test_a_file_that_is_listed_again_is_told(make_coco: Make) -> None:
    """Or an image with objects would be background too, without a word."""
    images = [{"id": number, "file_name": "a.jpg", "width": 64, "height": 48} for number in (7, 3)]
    dataset = read(make_coco(images=images))
    assert dataset.counts["listed_again"] == 1
    assert dataset.notes[0].startswith("image a.jpg is listed again")


@pytest.mark.parametrize("size", [(None, None), (64, None), (None, "48")])
def test_a_size_that_is_missing_is_that_of_the_file(make_coco: Make, size: Any) -> None:
    images = [{"id": 7, "file_name": "a.jpg", "width": size[0], "height": size[1]}]
    entry = {"id": 1, "image_id": 7, "category_id": 5, "bbox": [1, 1, 5, 5]}
    dataset = read(make_coco(images=images, annotations=[entry]))
    assert dataset.counts["mended_sizes"] == 1
    assert (dataset.images[0].width, dataset.images[0].height) == (64, 48)


def test_images_that_no_entry_names_are_told(make_coco: Make) -> None:
    paths = make_coco()
    Image.new("RGB", (8, 8)).save(paths[0] / "c.jpg")
    (paths[0] / ".ipynb_checkpoints").mkdir()
    Image.new("RGB", (8, 8)).save(paths[0] / ".ipynb_checkpoints" / "a.jpg")
    dataset = read(paths, strict=True)
    assert dataset.counts["unlisted_images"] == 1
    assert dataset.notes == ("1 images of the folder are not listed, the first is c.jpg",)


def test_text_with_a_mark_is_the_same_set(make_coco: Make) -> None:
    paths = make_coco()
    plain = read(paths).fingerprint()
    content = paths[1].read_text()
    for encoding in ("utf-8-sig", "utf-16"):
        paths[1].write_text(content, encoding=encoding)
        assert read(paths, strict=True).fingerprint() == plain


def test_sizes_that_are_no_numbers_are_named_as_they_stand(make_coco: Make) -> None:
    images = [{"id": 7, "file_name": "a.jpg", "width": "wide", "height": 48}]
    with pytest.raises(DataError, match=r"annotated as 'wide'x48 but the file is 64x48"):
        read(make_coco(images=images, annotations=[]))


def test_annotations_of_unknown_images_are_dropped(make_coco: Make, box: Box) -> None:
    paths = make_coco(annotations=[box(1, 7, 5, [1, 2, 3, 4]), box(2, 99, 5, [1, 2, 3, 4])])
    dataset = read(paths)
    assert dataset.counts["unknown_images"] == 1
    assert dataset.counts["boxes"] == 1
    with pytest.raises(DataError, match="unknown image 99"):
        read(paths, strict=True)


@pytest.mark.parametrize(
    ("changes", "cause"),
    [
        ({"annotations": []}, "empty"),
        ({"images": []}, "empty"),
        ({"categories": None}, "no list of objects 'categories'"),
        ({"images": [1]}, "no list of objects 'images'"),
        ({"images": [{"id": 1}, {"id": 1}]}, "id 1 is there twice"),
        ({"categories": [{"id": 5, "name": "a"}, {"id": 5, "name": "b"}]}, "id 5 is there twice"),
        ({"categories": [{"id": 5}, {"id": 90, "name": "b"}]}, "category 5 has no name"),
        ({"categories": [{"id": "x", "name": "a"}]}, "not an integer"),
        ({"categories": [{"id": 5, "name": "a"}]}, "unknown category 90"),
        ({"images": [{"id": 2**70, "file_name": "a.jpg"}]}, "not an integer"),
    ],
)
def test_documents_that_mean_nothing(make_coco: Make, changes: Any, cause: str) -> None:
    paths = make_coco(**changes)
    with pytest.raises(DataError, match=cause) as caught:
        read(paths)
    assert caught.value.path == paths[1]
    assert caught.value.exit_code == 3
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "content", [b"", b"[1, 2]", b'{"images": [', b"\xff\xfe\x00", b"[" * 10**5]
)
def test_files_that_are_no_document(make_coco: Make, content: bytes) -> None:
    paths = make_coco()
    paths[1].write_bytes(content)
    with pytest.raises(DataError):
        read(paths)


def test_bad_images_are_listed_or_skipped_up_to_a_number(make_coco: Make) -> None:
    paths = make_coco()
    whole = (paths[0] / "a.jpg").read_bytes()
    (paths[0] / "a.jpg").write_bytes(whole[:-40])
    with pytest.raises(DataError, match=r"1 bad images, 0 allowed: a\.jpg \(") as caught:
        read(paths)
    assert "\n" not in str(caught.value)
    dataset = read(paths, max_bad_images=1)
    assert [record.path.name for record in dataset.images] == ["b.jpg"]
    assert dataset.counts["bad_images"] == 1
    assert "a.jpg" in dataset.notes[0]
    (paths[0] / "b.jpg").unlink()
    with pytest.raises(DataError, match=r"2 bad images, 1 allowed.*a\.jpg.*b\.jpg \(no such file"):
        read(paths, max_bad_images=1)
    with pytest.raises(DataError, match="empty"):
        read(paths, max_bad_images=2)


@pytest.mark.parametrize("name", ["../canary.jpg", "/canary.jpg", "link.jpg"])
def test_files_outside_are_never_opened(make_coco: Make, name: str) -> None:
    paths = make_coco(images=[{"id": 7, "file_name": name}], annotations=[])
    os.mkfifo(paths[0].parent / "canary.jpg")  # opening it would hang
    (paths[0] / "link.jpg").symlink_to(paths[0].parent / "canary.jpg")
    with pytest.raises(DataError, match=name):
        read(paths, max_bad_images=9)


def test_a_pipe_among_the_images_is_not_opened(make_coco: Make) -> None:
    paths = make_coco()
    (paths[0] / "a.jpg").unlink()
    os.mkfifo(paths[0] / "a.jpg")
    assert read(paths, max_bad_images=1).counts["bad_images"] == 1


def test_sizes_must_agree(make_coco: Make) -> None:
    images = [
        {"id": 7, "file_name": "a.jpg", "width": 60, "height": 48},
        {"id": 3, "file_name": "b.jpg"},
    ]
    paths = make_coco(images=images)
    with pytest.raises(DataError, match=r"a\.jpg \(annotated as 60x48 but the file is 64x48"):
        read(paths)
    dataset = read(paths, max_bad_images=1)
    assert dataset.counts["mended_sizes"] == 1
    assert (dataset.images[0].width, dataset.images[0].height) == (64, 48)


def test_boxes_follow_an_exif_rotation(make_coco: Make, box: Box) -> None:
    sizes = {"stored": (64, 48), "upright": (48, 64)}
    bboxes = {"stored": [10, 12, 20, 16], "upright": [48 - 28, 10, 16, 20]}
    for frame, (width, height) in sizes.items():
        images = [{"id": 7, "file_name": "a.jpg", "width": width, "height": height}]
        paths = make_coco(images=images, annotations=[box(1, 7, 5, bboxes[frame])])
        exif = Image.Exif()
        exif[0x0112] = 6
        Image.new("RGB", (64, 48)).save(paths[0] / "a.jpg", exif=exif)
        dataset = read(paths)
        (record,) = dataset.images
        assert (record.width, record.height) == (48, 64)
        assert record.boxes.tolist() == [[20, 10, 36, 30]]
        assert dataset.counts.get("turned_images", 0) == (frame == "stored")


def test_crowds_are_kept_apart(make_coco: Make, box: Box) -> None:
    annotations = [box(1, 7, 5, [1, 2, 3, 4]), box(2, 7, 90, [5, 5, 20, 20], iscrowd=1)]
    dataset = read(make_coco(annotations=annotations), strict=True)
    record = dataset.images[0]
    assert len(record.boxes) == 1
    assert record.crowd_boxes.tolist() == [[5, 5, 25, 25]]
    assert record.crowd_labels.tolist() == [1]
    made = coco_document(dataset)["annotations"]
    assert [(a["category_id"], a["iscrowd"]) for a in made] == [(5, 0), (90, 1)]


@pytest.mark.parametrize(
    ("written", "crowd", "mended"),
    [(True, True, 0), (False, False, 0), ("1", True, 1), (1.0, True, 1), (2, False, 1)],
)
def test_a_crowd_is_one_however_that_is_written(
    make_coco: Make, box: Box, written: Any, crowd: bool, mended: int
) -> None:
    annotations = [box(1, 7, 5, [1, 2, 3, 4]), box(2, 7, 90, [5, 5, 20, 20], iscrowd=written)]
    dataset = read(make_coco(annotations=annotations))
    assert len(dataset.images[0].crowd_boxes) == crowd
    assert dataset.counts.get("mended_fields", 0) == mended


@pytest.mark.skipif(not BCCD.is_dir(), reason="the BCCD data set is not beside the checkout")
def test_bccd_reads_as_pycocotools_reads_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    paths = find_coco_split(BCCD, "train")
    dataset = read_coco(*paths, max_bad_images=0, strict=False)
    made = tmp_path / "made.json"
    made.write_text(json.dumps(coco_document(dataset)))
    ours, theirs = COCO(str(made)), COCO(str(paths[1]))
    capsys.readouterr()
    assert ours.getImgIds() == theirs.getImgIds()
    assert ours.getCatIds() == theirs.getCatIds()
    assert dataset.counts["images"] == 205
    assert dataset.counts["boxes"] + dataset.counts["dropped"] == 2804
    limits = {image["id"]: (image["width"], image["height"]) for image in theirs.dataset["images"]}
    for image_id in theirs.getImgIds():
        reference = []
        for entry in theirs.imgToAnns[image_id]:
            x, y, width, height = entry["bbox"]
            x2, y2 = min(x + width, limits[image_id][0]), min(y + height, limits[image_id][1])
            x, y = max(x, 0), max(y, 0)
            if x2 > x and y2 > y:
                reference.append((entry["category_id"], x, y, x2 - x, y2 - y))
        read_back = [(e["category_id"], *e["bbox"]) for e in ours.imgToAnns[image_id]]
        np.testing.assert_allclose(sorted(read_back), sorted(reference), atol=1e-4)
