"""Images that are damaged inside are counted with the bad ones, before anything is trained."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from quantpipe.data.checked import without_damaged
from quantpipe.data.coco import read_coco
from quantpipe.data.dataset import DetectionDataset
from quantpipe.errors import DataError
from quantpipe.files import sha256_file

Make = Callable[..., tuple[Path, Path]]


def read(make_coco: Make, broken: list[str], *, max_bad_images: int = 0) -> DetectionDataset:
    """Three PNG files, some with zeros in the middle and a whole end."""
    names = ["a.png", "b.png", "c.png"]
    images = [
        {"id": 7 + place, "file_name": name, "width": 64, "height": 48}
        for place, name in enumerate(names)
    ]
    boxes = [
        {"id": n + 1, "image_id": 7 + n, "category_id": 5, "bbox": [1, 1, 9, 9], "area": 81}
        for n in range(3)
    ]
    folder, file = make_coco(images=images, annotations=[{**box, "iscrowd": 0} for box in boxes])
    rng = np.random.default_rng(0)
    for name in names:
        path = folder / name
        Image.fromarray(rng.integers(0, 256, (48, 64, 3), dtype=np.uint8)).save(path)
        if name in broken:
            content = bytearray(path.read_bytes())
            content[2000:2100] = bytes(100)
            path.write_bytes(content)
    return read_coco(folder, file, max_bad_images=max_bad_images, strict=False)


def check(dataset: DetectionDataset, memo: Path | None = None, **changes: Any) -> Any:
    arguments = {"max_bad_images": 0, "decode": False, **changes}
    return without_damaged(dataset, memo, **arguments)


def test_a_whole_set_stays_what_it_is(make_coco: Make) -> None:
    dataset = read(make_coco, [])
    checked = check(dataset)
    assert checked.dataset is dataset
    assert checked.digests == [sha256_file(record.path) for record in dataset.images]


@pytest.mark.parametrize("decode", [False, True])
def test_damaged_images_are_refused_with_their_names(make_coco: Make, decode: bool) -> None:
    dataset = read(make_coco, ["a.png", "c.png"])
    assert dataset.counts["images"] == 3  # the reader believed their ends
    with pytest.raises(DataError, match=r"2 bad images, 1 allowed: a\.png \(damaged: .*c\.png \("):
        check(dataset, max_bad_images=1, decode=decode)


def test_they_are_left_out_up_to_a_number(make_coco: Make, tmp_path: Path) -> None:
    dataset = read(make_coco, ["b.png"])
    for _ in range(2):  # the second time by the memo
        left, digests = check(dataset, tmp_path / "memo.json", max_bad_images=1)
        assert [record.path.name for record in left.images] == ["a.png", "c.png"]
        assert digests == [sha256_file(record.path) for record in left.images]
        assert (left.counts["images"], left.counts["bad_images"]) == (2, 1)
        assert left.notes[0].startswith("image b.png skipped: damaged: the checksum")


def test_those_that_the_reader_left_out_count_too(make_coco: Make) -> None:
    paths = read(make_coco, ["b.png"]).images[0].path.parent, "annotations/instances_train.json"
    folder, file = paths[0], paths[0].parent / paths[1]
    (folder / "a.png").write_bytes(b"")
    dataset = read_coco(folder, file, max_bad_images=1, strict=False)
    with pytest.raises(DataError, match=r"2 bad images, 1 allowed: b.* and 1 more"):
        check(dataset, max_bad_images=1)
    assert check(dataset, max_bad_images=2).dataset.counts["bad_images"] == 2


def test_nothing_left_is_refused(make_coco: Make) -> None:
    dataset = read(make_coco, ["a.png", "b.png", "c.png"])
    with pytest.raises(DataError, match=r"empty \(0 images, 0 boxes\): 3 damaged, first: a\.png"):
        check(dataset, max_bad_images=3)
