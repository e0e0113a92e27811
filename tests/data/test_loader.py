from __future__ import annotations

import shutil
import threading
from collections.abc import Generator
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from tests.data.framing import frame
from tests.input_specifications import letterboxed

from quantpipe.data.augmentation import Augmentation
from quantpipe.data.coco import read_coco
from quantpipe.data.coco_layout import find_coco_split
from quantpipe.data.dataset import DetectionDataset
from quantpipe.data.image_cache import resized_images
from quantpipe.data.images import read_image
from quantpipe.data.loader import (
    Batch,
    evaluation_batches,
    num_training_batches,
    training_batches,
)
from quantpipe.errors import DataError

AUGMENTATION = Augmentation(
    mosaic=0.7, hsv_h=0.015, hsv_s=0.7, hsv_v=0.4, translate=0.1, scale=0.5, flip=0.5
)


def train(dataset: DetectionDataset, **changes: Any) -> list[Batch]:
    arguments: dict[str, Any] = {
        "specification": letterboxed(64),
        "batch_size": 4,
        "seed": 0,
        "epoch": 0,
        "augmentation": AUGMENTATION,
        "num_workers": 0,
        **changes,
    }
    return list(training_batches(dataset, **arguments))


def assert_equal(ours: list[Batch], theirs: list[Batch]) -> None:
    assert len(ours) == len(theirs)
    for left, right in zip(ours, theirs, strict=True):
        for one, other in zip(left, right, strict=True):
            torch.testing.assert_close(one, other, rtol=0, atol=0)


def test_shapes_types_and_padding(shapes: DetectionDataset) -> None:
    batches = train(shapes)
    assert len(batches) == 18 // 4 == num_training_batches(shapes, 4)
    for batch in batches:
        num_boxes = batch.labels.shape[1]
        assert batch.images.shape == (4, 3, 64, 64)
        assert batch.images.dtype == torch.uint8
        assert batch.images.is_contiguous()
        assert batch.boxes.shape == (4, num_boxes, 4)
        assert batch.boxes.dtype == torch.float32
        assert batch.labels.dtype == batch.image_ids.dtype == torch.int64
        padding = batch.labels < 0
        assert (batch.labels[padding] == -1).all()
        assert (batch.boxes[padding] == 0).all()
        real = batch.boxes[~padding]
        assert (real[:, 2:] > real[:, :2]).all()
        assert real.min() >= 0
        assert real.max() <= 64
        assert batch.labels.max() < 4


@pytest.mark.parametrize("num_workers", [1, 3])
def test_workers_change_nothing(shapes: DetectionDataset, num_workers: int) -> None:
    assert_equal(train(shapes, num_workers=num_workers), train(shapes))


def test_a_resumed_epoch_goes_on_where_it_was(shapes: DetectionDataset) -> None:
    assert_equal(train(shapes, start_batch=2), train(shapes)[2:])
    assert train(shapes, start_batch=4) == []


def test_the_cache_changes_nothing(shapes: DetectionDataset) -> None:
    assert_equal(train(shapes, cache_bytes=0), train(shapes))


def test_cached_images_are_the_same_objects_and_die_with_the_set(shapes: DetectionDataset) -> None:
    cache = resized_images(shapes, specification=letterboxed(48), limit=10**9)
    assert cache.read(2) is cache.read(2)
    assert resized_images(shapes, specification=letterboxed(48), limit=10**9) is cache
    small = resized_images(shapes, specification=letterboxed(48), limit=18 * 48 * 48 * 3 - 1)
    assert small.read(2) is not small.read(2)
    np.testing.assert_array_equal(small.read(2), cache.read(2))
    with pytest.raises(ValueError, match="read-only"):
        cache.read(2)[0] = 0


def test_epochs_and_seeds_differ(shapes: DetectionDataset) -> None:
    orders = {
        tuple(torch.cat([batch.image_ids for batch in train(shapes, **changes)]).tolist())
        for changes in ({}, {"epoch": 1}, {"seed": 1})
    }
    assert len(orders) == 3
    for order in orders:
        assert len(set(order)) == 16


def test_a_set_smaller_than_a_batch_is_one_batch(shapes: DetectionDataset) -> None:
    (batch,) = train(shapes.subset(range(3)), batch_size=8)
    assert sorted(batch.image_ids.tolist()) == [1, 2, 3]


def test_images_without_objects(shapes: DetectionDataset) -> None:
    record = shapes.images[0]
    bare = type(record)(**{**vars(record), "boxes": record.boxes[:0], "labels": record.labels[:0]})
    empty = type(shapes)(**{**vars(shapes), "images": (bare,)})
    for batch in (*train(empty), *train(empty, augmentation=None)):
        assert batch.labels.tolist() == [[-1]]
        assert batch.boxes.shape == (1, 1, 4)


def test_augmented_boxes_stay_on_their_objects(tmp_path: Path) -> None:
    """One white rectangle on black, whatever the augmentation: boxes and pixels must agree."""
    from PIL import Image

    (tmp_path / "train").mkdir()
    (tmp_path / "annotations").mkdir()
    picture = np.zeros((96, 128, 3), dtype=np.uint8)
    picture[30:70, 40:100] = 255
    Image.fromarray(picture).save(tmp_path / "train" / "a.png")
    (tmp_path / "annotations" / "instances_train.json").write_text(
        '{"images": [{"id": 1, "file_name": "a.png", "width": 128, "height": 96}],'
        '"categories": [{"id": 1, "name": "a"}], "annotations": [{"id": 1, "image_id": 1,'
        '"category_id": 1, "bbox": [40, 30, 60, 40], "area": 2400, "iscrowd": 0}]}'
    )
    dataset = read_coco(*find_coco_split(tmp_path, "train"), max_bad_images=0, strict=True)
    still = Augmentation(
        mosaic=0.0, hsv_h=0.0, hsv_s=0.0, hsv_v=0.0, translate=0.1, scale=0.4, flip=0.5
    )
    for epoch in range(12):
        (batch,) = train(dataset, augmentation=still, epoch=epoch, specification=letterboxed(96))
        rows, columns = np.nonzero(batch.images[0, 0].numpy() > 128)
        seen = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
        np.testing.assert_allclose(batch.boxes[0, 0], seen, atol=1.0)
    moved = Augmentation(**{**vars(still), "mosaic": 1.0})
    for epoch in range(12):
        (batch,) = train(dataset, augmentation=moved, epoch=epoch, specification=letterboxed(96))
        bright = batch.images[0, 0].numpy() > 190
        for x1, y1, x2, y2 in batch.boxes[0][batch.labels[0] >= 0].round().int().tolist():
            assert bright[y1 + 1 : y2 - 1, x1 + 1 : x2 - 1].mean() > 0.97
            bright[max(y1 - 1, 0) : y2 + 1, max(x1 - 1, 0) : x2 + 1] = False
        # What no box covers are slivers that were too small to keep.
        assert bright.sum() <= 0.1 * 2400 * 4


def test_no_augmentation_is_the_letterbox(shapes: DetectionDataset) -> None:
    by_id = {record.image_id: record for record in shapes.images}
    for batch in train(shapes, augmentation=None):
        for image, boxes, labels, image_id in zip(*batch, strict=True):
            record = by_id[int(image_id)]
            expected, placed = frame(read_image(record.path), letterboxed(64))
            np.testing.assert_array_equal(image.numpy().transpose(1, 2, 0), expected)
            np.testing.assert_allclose(boxes[labels >= 0], placed.apply(record.boxes))


@pytest.mark.parametrize("num_workers", [0, 1, 2])
def test_evaluation_is_in_order_and_goes_back_to_original_pixels(
    shapes: DetectionDataset, num_workers: int
) -> None:
    indices = [5, 0, 17, 3, 3]
    batches = list(
        evaluation_batches(
            shapes,
            specification=letterboxed(64),
            batch_size=2,
            indices=indices,
            num_workers=num_workers,
        )
    )
    assert [len(batch.images) for batch, _ in batches] == [2, 2, 1]
    pairs = [
        (int(image_id), box[label >= 0], placed)
        for batch, framings in batches
        for image_id, box, label, placed in zip(
            batch.image_ids, batch.boxes, batch.labels, framings, strict=True
        )
    ]
    assert [image_id for image_id, _, _ in pairs] == [shapes.images[i].image_id for i in indices]
    for index, (_, boxes, placed) in zip(indices, pairs, strict=True):
        back = placed.inverse(boxes.numpy())
        np.testing.assert_allclose(back, shapes.images[index].boxes, atol=1e-3)
    assert (
        sum(
            len(b.images)
            for b, _ in evaluation_batches(shapes, specification=letterboxed(64), batch_size=5)
        )
        == 18
    )


@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_file_lost_later_is_named(shapes_folder: Path, tmp_path: Path, num_workers: int) -> None:
    root = Path(shutil.copytree(shapes_folder, tmp_path / "copy"))
    dataset = read_coco(*find_coco_split(root, "train"), max_bad_images=0, strict=True)
    (root / "train" / "000004.jpg").write_bytes(b"\xff\xd8\xff")
    with pytest.raises(DataError) as caught:
        train(dataset, num_workers=num_workers)
    assert caught.value.path == (root / "train" / "000004.jpg").resolve()


def test_a_consumer_that_stops_early_leaves_no_thread(shapes: DetectionDataset) -> None:
    batches = training_batches(
        shapes,
        specification=letterboxed(64),
        batch_size=2,
        seed=0,
        epoch=0,
        augmentation=AUGMENTATION,
        num_workers=2,
    )
    next(batches)
    cast("Generator[Batch]", batches).close()
    assert not [t for t in threading.enumerate() if t.name.startswith("prefetch")]
