from __future__ import annotations

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from tests.data.framing import frame
from tests.input_specifications import letterboxed

from quantpipe.data.transforms import (
    Sample,
    flip,
    hsv_jitter,
    mosaic,
    random_affine,
    resize_to_fit,
)


def marked(height: int, width: int, box: tuple[int, int, int, int], level: int = 255) -> Sample:
    """A black picture with one bright box."""
    image = np.zeros((height, width, 3), dtype=np.uint8)
    x1, y1, x2, y2 = box
    image[y1:y2, x1:x2] = level
    return Sample(image, np.array([box], dtype=np.float32), np.array([1], dtype=np.int64))


def extent(image: NDArray[np.uint8], threshold: int = 180) -> list[int]:
    """The box of what is bright, past the gray of the padding."""
    rows, columns = np.nonzero(image[..., 0] > threshold)
    return [int(columns.min()), int(rows.min()), int(columns.max()) + 1, int(rows.max()) + 1]


@pytest.mark.parametrize(
    ("height", "width"), [(427, 640), (640, 427), (160, 160), (30, 45), (99, 7)]
)
def test_letterbox_is_centered_and_goes_back(height: int, width: int) -> None:
    boxes = np.array([[0, 0, width, height], [3, 5, 6, 20]], dtype=np.float32)
    image, placed = frame(np.full((height, width, 3), 255, dtype=np.uint8), letterboxed(160))
    assert image.shape == (160, 160, 3)
    assert placed.scale_x == placed.scale_y == pytest.approx(160 / max(height, width))
    inside = placed.apply(boxes)
    np.testing.assert_allclose(inside[0], extent(image), atol=0.51)
    left, top, right, bottom = extent(image)
    assert abs(left - (160 - right)) <= 1
    assert abs(top - (160 - bottom)) <= 1
    assert (image[:top] == 114).all()
    assert (image[:, right:] == 114).all()
    np.testing.assert_allclose(placed.inverse(inside), boxes, atol=1e-3)


@pytest.mark.parametrize("size", [160, 224, 800])
def test_resizing_scales_both_sides_by_the_same_number(size: int) -> None:
    rows = np.arange(427, dtype=np.float64)[:, None, None] * (255 / 427)
    image = np.broadcast_to(rows, (427, 640, 3)).round().astype(np.uint8)
    resized = resize_to_fit(image, letterboxed(size))
    scale = size / 640
    indices = np.arange(5, resized.shape[0] - 5)
    # The value at a row says where in the original it was taken.
    taken = resized[5:-5, 0, 0] * (427 / 255) + 0.5
    assert abs(np.mean(taken - (indices + 0.5) / scale)) < 0.1


def test_a_thread_of_an_image_keeps_a_pixel() -> None:
    image, placed = frame(np.full((1, 1000, 3), 255, dtype=np.uint8), letterboxed(64))
    assert image.shape == (64, 64, 3)
    assert placed.scale_x == placed.scale_y == pytest.approx(0.064)


@pytest.mark.parametrize("scale", [0.0, 0.4])
@pytest.mark.parametrize("seed", range(8))
def test_affine_moves_boxes_with_their_pixels(scale: float, seed: int) -> None:
    sample = marked(320, 320, (140, 150, 190, 178))
    moved = random_affine(
        sample, letterboxed(160), translate=0.1, scale=scale, rng=np.random.default_rng(seed)
    )
    assert moved.image.shape == (160, 160, 3)
    np.testing.assert_allclose(moved.boxes[0], extent(moved.image, 127), atol=0.51)
    assert moved.labels.tolist() == [1]


def test_affine_without_gains_crops_the_middle() -> None:
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (64, 64, 3), dtype=np.uint8)
    none = Sample(image, np.zeros((0, 4), np.float32), np.zeros(0, np.int64))
    moved = random_affine(none, letterboxed(32), translate=0.0, scale=0.0, rng=rng)
    np.testing.assert_array_equal(moved.image, image[16:48, 16:48])


def test_affine_drops_boxes_that_left_and_clips_the_rest() -> None:
    boxes = np.array([[0, 0, 10, 10], [20, 20, 60, 60], [31, 31, 33, 33]], dtype=np.float32)
    sample = Sample(np.zeros((64, 64, 3), np.uint8), boxes, np.arange(3, dtype=np.int64))
    moved = random_affine(
        sample, letterboxed(32), translate=0.0, scale=0.0, rng=np.random.default_rng(0)
    )
    assert moved.boxes.tolist() == [[4, 4, 32, 32]]
    assert moved.labels.tolist() == [1]


@pytest.mark.parametrize("seed", range(12))
def test_mosaic_moves_boxes_with_their_pixels(seed: int) -> None:
    rng = np.random.default_rng(seed)
    levels = (200, 215, 230, 245)
    tiles = [marked(60, 80, (30, 20, 50, 41), level) for level in levels]
    labeled = [tile._replace(labels=np.array([i])) for i, tile in enumerate(tiles)]
    whole = mosaic(labeled, letterboxed(80), rng)
    assert whole.image.shape == (160, 160, 3)
    assert len(whole.boxes) >= 1
    for box, label in zip(whole.boxes, whole.labels, strict=True):
        only = np.where(whole.image == levels[label], whole.image, 0)
        np.testing.assert_array_equal(box, extent(only))


def test_mosaic_tiles_meet_without_overlap() -> None:
    tiles = [
        Sample(
            np.full((80, 80, 3), 10 * i, np.uint8),
            np.zeros((0, 4), np.float32),
            np.zeros(0, np.int64),
        )
        for i in range(1, 5)
    ]
    whole = mosaic(tiles, letterboxed(80), np.random.default_rng(1)).image[..., 0]
    shown = [np.argwhere(whole == 10 * i) for i in range(1, 5)]
    assert (shown[0].max(axis=0) + 1 == shown[3].min(axis=0)).all()
    assert shown[1][:, 1].min() == shown[3][:, 1].min()
    assert shown[2][:, 0].min() == shown[3][:, 0].min()


def test_flip_mirrors_pixels_and_boxes() -> None:
    sample = marked(48, 64, (3, 5, 20, 30))
    rng = np.random.default_rng(0)
    mirrored = flip(sample, probability=1.0, rng=rng)
    assert mirrored.boxes[0].tolist() == extent(mirrored.image) == [44, 5, 61, 30]
    assert flip(sample, probability=0.0, rng=rng) is sample


def test_hsv_jitter_without_gains_changes_rounding_only() -> None:
    image = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    same = hsv_jitter(image, hue=0, saturation=0, value=0, rng=np.random.default_rng(0))
    reference = cv2.cvtColor(cv2.cvtColor(image, cv2.COLOR_RGB2HSV), cv2.COLOR_HSV2RGB)
    np.testing.assert_array_equal(same, reference)


def test_value_jitter_scales_brightness_and_saturates() -> None:
    image = np.tile(np.arange(256, dtype=np.uint8)[None, :, None], (4, 1, 3))
    rng, twin = np.random.default_rng(3), np.random.default_rng(3)
    gain = 1 + twin.uniform(-1, 1, 3)[2] * 0.5
    changed = hsv_jitter(image, hue=0, saturation=0, value=0.5, rng=rng)
    expected = np.minimum(np.arange(256) * gain, 255).astype(np.uint8)
    np.testing.assert_array_equal(changed[0, :, 0], expected)


@pytest.mark.parametrize(("height", "width"), [(427, 640), (640, 427), (50, 31)])
def test_a_rectangle_is_filled_as_far_as_the_picture_allows(height: int, width: int) -> None:
    boxes = np.array([[0, 0, width, height], [3, 5, 16, 20]], dtype=np.float32)
    picture = np.full((height, width, 3), 255, dtype=np.uint8)
    image, placed = frame(picture, letterboxed(48, 80))
    assert image.shape == (48, 80, 3)
    scale = min(48 / height, 80 / width)
    assert placed.scale_x == placed.scale_y == pytest.approx(scale)
    np.testing.assert_allclose(placed.apply(boxes)[0], extent(image), atol=0.51)
    left, top, right, bottom = extent(image)
    assert abs(left - (80 - right)) <= 1
    assert abs(top - (48 - bottom)) <= 1
    np.testing.assert_allclose(placed.inverse(placed.apply(boxes)), boxes, atol=1e-3)


def test_a_picture_may_lie_in_the_corner_of_another_level() -> None:
    picture = np.full((30, 40, 3), 255, dtype=np.uint8)
    image, placed = frame(picture, letterboxed(48, 80, align="top_left", padding=7))
    assert (placed.pad_x, placed.pad_y) == (0, 0)
    assert (image[:, :64] == 255).all()
    assert (image[:, 64:] == 7).all()


def test_stretching_fills_the_input_and_goes_back() -> None:
    boxes = np.array([[4, 6, 20, 28]], dtype=np.float32)
    sample = marked(32, 40, (4, 6, 20, 28))
    image, placed = frame(sample.image, letterboxed(48, 80, resize="stretch"))
    assert image.shape == (48, 80, 3)
    assert placed == (2.0, 1.5, 0, 0)
    np.testing.assert_allclose(placed.apply(boxes)[0], extent(image, 127), atol=1)
    np.testing.assert_allclose(placed.inverse(placed.apply(boxes)), boxes, atol=1e-4)


def test_augmentation_of_rectangles_moves_boxes_with_their_pixels() -> None:
    wide = letterboxed(64, 160)
    tiles = [marked(60, 150, (40, 20, 90, 44)) for _ in range(4)]
    for seed in range(6):
        rng = np.random.default_rng(seed)
        whole = mosaic(tiles, wide, rng)
        assert whole.image.shape == (128, 320, 3)
        moved = random_affine(whole, wide, translate=0.1, scale=0.3, rng=rng)
        assert moved.image.shape == (64, 160, 3)
        covered = np.zeros((64, 160), dtype=bool)
        for x1, y1, x2, y2 in np.round(moved.boxes).astype(int):
            assert moved.image[y1:y2, x1:x2, 0].mean() > 200
            covered[max(0, y1 - 2) : y2 + 2, max(0, x1 - 2) : x2 + 2] = True
        if len(moved.boxes) == 4:
            assert not (moved.image[..., 0] > 180)[~covered].any()
