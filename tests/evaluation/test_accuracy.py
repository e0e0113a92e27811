from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import pytest
from numpy.typing import NDArray
from tests.evaluation.random_boxes import objects_in

from quantpipe.errors import DataError
from quantpipe.evaluation.accuracy import agreement, evaluate_predictor
from quantpipe.evaluation.image_detections import ImageDetections, confident_objects


class Batch(NamedTuple):
    images: NDArray[np.uint8]
    image_ids: NDArray[np.int64]


class HalfSize(NamedTuple):
    """A letterbox that halved the image and moved it down by ``pad``."""

    pad: float

    def inverse(self, boxes: NDArray[np.float32], /) -> NDArray[np.float32]:
        return (boxes - np.array([0, self.pad, 0, self.pad], dtype=np.float32)) * 2


TRUTH: dict[str, Any] = {
    "images": [
        {"id": 5, "width": 64, "height": 48},
        {"id": 9, "width": 64, "height": 48},
    ],
    "categories": [{"id": 2, "name": "cell"}, {"id": 4, "name": "platelet"}],
    "annotations": [
        {"image_id": 5, "category_id": 4, "bbox": [10, 8, 20, 16]},
        {"image_id": 9, "category_id": 2, "bbox": [44, 28, 20, 20]},
    ],
}


def _batches() -> Iterator[tuple[Batch, list[HalfSize]]]:
    letterboxes = [HalfSize(4.0), HalfSize(4.0)]
    images = np.full((2, 3, 32, 32), 255, dtype=np.uint8)
    yield Batch(images, np.array([5, 9])), letterboxes


def _predict(images: NDArray[np.float32]) -> NDArray[np.float32]:
    assert images.dtype == np.float32
    assert images.max() == 1.0
    # Letterboxed centers and sizes: original / 2, plus 4 down. The second box leaves the image.
    return np.array(
        [
            [[10, 12, 10, 8, 1, 0.01, 0.9]],
            [[28, 24, 12, 12, 1, 0.8, 0.01]],
        ],
        dtype=np.float32,
    )


def _prepare(images: NDArray[np.uint8]) -> NDArray[np.float32]:
    return images.astype(np.float32) / np.float32(255)


def test_predictions_are_scored_in_original_pixels_and_clipped() -> None:
    sizes = {image["id"]: (image["width"], image["height"]) for image in TRUTH["images"]}
    measured = evaluate_predictor(_predict, _prepare, _batches(), objects_in(TRUTH, (2, 4)), sizes)
    found = measured.detections
    np.testing.assert_allclose(found[0].boxes, [[10, 8, 30, 24]])
    np.testing.assert_allclose(found[1].boxes, [[44, 28, 64, 48]])  # 68, 52 before clipping
    assert [image.image_id for image in found] == [5, 9]
    assert [image.labels.tolist() for image in found] == [[1], [0]]
    assert measured.result.map == pytest.approx(1.0)
    assert measured.matched.average_precision().map == pytest.approx(1.0)
    assert measured.result.num_images == 2


def _image(image_id: int, *rows: list[float]) -> ImageDetections:
    table = np.array(rows, dtype=np.float32).reshape(-1, 6)
    return ImageDetections(
        image_id=image_id,
        boxes=table[:, :4],
        scores=table[:, 4],
        labels=table[:, 5].astype(np.int64),
    )


def test_agreement_with_itself_is_one_and_faint_detections_do_not_count() -> None:
    reference = [
        _image(1, [0, 0, 50, 50, 0.9, 0], [100, 0, 150, 50, 0.1, 1]),
        _image(2, [10, 10, 40, 40, 0.6, 1]),
    ]
    assert agreement(reference, reference, ("a", "b")).map == pytest.approx(1.0)
    lost = [_image(1, [0, 0, 50, 50, 0.9, 0]), _image(2)]
    assert agreement(reference, lost, ("a", "b")).per_class == pytest.approx({"a": 1, "b": 0})


def test_agreement_falls_with_the_shift() -> None:
    reference = [_image(1, [0, 0, 100, 100, 0.9, 0])]
    shifted = [_image(1, [20, 0, 120, 100, 0.9, 0])]
    assert agreement(reference, shifted, ("a",)).map == pytest.approx(0.4)  # IoU 2/3


def test_a_reference_without_confident_detections_measures_nothing() -> None:
    with pytest.raises(DataError, match=r"above 0\.3"):
        confident_objects([_image(1, [0, 0, 9, 9, 0.2, 0])], ("a",), 0.3)
