"""Framing and augmentation: pictures as uint8 (H, W, 3) RGB, boxes as x1, y1, x2, y2 pixels.

Every random choice comes from the generator that the caller hands in. Mosaic: Bochkovskiy et al.,
"YOLOv4: Optimal Speed and Accuracy of Object Detection", 2020, section 3.3.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from quantpipe.detector.input_specification import InputSpecification

Pixels = NDArray[np.uint8]
Boxes = NDArray[np.float32]

_MIN_SIDE = 2.0  # pixels of a box that augmentation must leave
_MIN_VISIBLE = 0.1  # of the area of a box that augmentation must leave


class Sample(NamedTuple):
    """A picture (H, W, 3), its boxes (n, 4) and their labels (n,)."""

    image: Pixels
    boxes: Boxes
    labels: NDArray[np.int64]


class Framing(NamedTuple):
    """How an image was put into what a network takes: ``input = original * scale + pad``."""

    scale_x: float
    scale_y: float
    pad_x: float
    pad_y: float

    def apply(self, boxes: Boxes) -> Boxes:
        """Moves (n, 4) boxes from original pixels to those of the input."""
        return (boxes * self._scales() + self._pads()).astype(np.float32)

    def inverse(self, boxes: NDArray[np.floating]) -> Boxes:
        """Moves (n, 4) boxes from pixels of the input to original ones."""
        return ((boxes - self._pads()) / self._scales()).astype(np.float32)

    def _scales(self) -> Boxes:
        return np.array([self.scale_x, self.scale_y] * 2, dtype=np.float32)

    def _pads(self) -> Boxes:
        return np.array([self.pad_x, self.pad_y] * 2, dtype=np.float32)


def fit_scales(width: int, height: int, specification: InputSpecification) -> tuple[float, float]:
    """Returns the factors of x and y that make an image fit, or fill, what a network takes."""
    x, y = specification.width / width, specification.height / height
    return (x, y) if specification.resize == "stretch" else (min(x, y), min(x, y))


def resize_to_fit(image: Pixels, specification: InputSpecification) -> Pixels:
    """Resizes by exactly :func:`fit_scales`, so boxes scale by the same numbers.

    Rounding is left to the border: the last row or column may be cut or repeated by half a pixel.
    """
    height, width = image.shape[:2]
    x, y = fit_scales(width, height, specification)
    if x == y == 1.0:
        return image
    interpolation = cv2.INTER_AREA if max(x, y) < 1.0 else cv2.INTER_LINEAR
    if width * x < 1.0 or height * y < 1.0:  # a thread of an image: at least one pixel is left
        resized = cv2.resize(image, (max(1, round(width * x)), max(1, round(height * y))))
    else:
        resized = cv2.resize(image, None, fx=x, fy=y, interpolation=interpolation)
    return resized.astype(np.uint8, copy=False)


def pad_to_fill(image: Pixels, specification: InputSpecification) -> tuple[Pixels, int, int]:
    """Pads an image that fits; returns it with the columns left and the rows above of it."""
    height, width = image.shape[:2]
    left, top = 0, 0
    if specification.align == "center":
        left, top = (specification.width - width) // 2, (specification.height - height) // 2
    canvas = np.full((*specification.size, 3), specification.padding, dtype=np.uint8)
    canvas[top : top + height, left : left + width] = image
    return canvas, left, top


def hsv_jitter(
    image: Pixels, *, hue: float, saturation: float, value: float, rng: np.random.Generator
) -> Pixels:
    """Multiplies hue, saturation and value by random factors within 1 +- the gains."""
    gains = 1.0 + rng.uniform(-1.0, 1.0, 3) * (hue, saturation, value)
    levels = np.arange(256, dtype=np.float64)
    table = np.stack(
        (levels * gains[0] % 180, np.minimum(levels * gains[1], 255), levels * gains[2]), axis=-1
    )
    table = np.minimum(table, 255).astype(np.uint8)[None]
    hsv = cv2.cvtColor(image, cv2.COLOR_RGB2HSV)
    return cv2.cvtColor(cv2.LUT(hsv, table), cv2.COLOR_HSV2RGB).astype(np.uint8, copy=False)


def flip(sample: Sample, *, probability: float, rng: np.random.Generator) -> Sample:
    """Mirrors left and right with the given probability."""
    if rng.random() >= probability:
        return sample
    boxes = sample.boxes.copy()
    boxes[:, [0, 2]] = sample.image.shape[1] - sample.boxes[:, [2, 0]]
    return Sample(cv2.flip(sample.image, 1).astype(np.uint8, copy=False), boxes, sample.labels)


def mosaic(
    tiles: Sequence[Sample], specification: InputSpecification, rng: np.random.Generator
) -> Sample:
    """Puts four samples, each within the input's size, around a random point of twice that size.

    Returns:
        A sample of (2 height, 2 width); what its crop shows is for :func:`random_affine` to say.
        Boxes are clipped to their tile.
    """
    assert len(tiles) == 4, "a mosaic has four tiles"
    size = np.array([specification.width, specification.height])
    across, down = (2 * size).tolist()
    canvas = np.full((down, across, 3), specification.padding, dtype=np.uint8)
    center_x, center_y = rng.integers(size // 2, 2 * size - size // 2, endpoint=True).tolist()
    placed = []
    for quadrant, tile in enumerate(tiles):
        height, width = tile.image.shape[:2]
        left = center_x - width if quadrant % 2 == 0 else center_x
        top = center_y - height if quadrant < 2 else center_y
        x1, y1 = max(left, 0), max(top, 0)
        x2, y2 = min(left + width, across), min(top + height, down)
        canvas[y1:y2, x1:x2] = tile.image[y1 - top : y2 - top, x1 - left : x2 - left]
        moved = tile.boxes + np.array([left, top, left, top], dtype=np.float32)
        placed.append(_clip(moved, tile.labels, (x1, y1, x2, y2)))
    boxes, labels = (np.concatenate(parts) for parts in zip(*placed, strict=True))
    return Sample(canvas, boxes, labels)


def random_affine(
    sample: Sample,
    specification: InputSpecification,
    *,
    translate: float,
    scale: float,
    rng: np.random.Generator,
) -> Sample:
    """Scales a sample about its center and moves it, then crops the middle to the input's size.

    Args:
        sample: Of any size; its center lands near the center of the result.
        specification: Size of the result, and what is around the sample.
        translate: Largest shift as a fraction of the size.
        scale: Factors are uniform in 1 +- this.
        rng: The source of the shift and the factor.
    """
    factor = rng.uniform(1.0 - scale, 1.0 + scale)
    height, width = sample.image.shape[:2]
    size = (specification.width, specification.height)
    shift = (0.5 + rng.uniform(-translate, translate, 2)) * size
    offset = shift - factor * np.array([width, height]) / 2
    # In pixel indices, whose centers lie half a pixel inside the coordinates of the boxes.
    indices = offset + (factor - 1) / 2
    matrix = np.array([[factor, 0.0, indices[0]], [0.0, factor, indices[1]]])
    border = (specification.padding,) * 3
    image = cv2.warpAffine(sample.image, matrix, size, borderValue=border)
    moved = (sample.boxes * factor + np.tile(offset, 2)).astype(np.float32)
    boxes, labels = _clip(moved, sample.labels, (0, 0, *size))
    return Sample(image.astype(np.uint8, copy=False), boxes, labels)


def _clip(
    boxes: Boxes, labels: NDArray[np.int64], window: tuple[int, int, int, int]
) -> tuple[Boxes, NDArray[np.int64]]:
    """Clips boxes to a window and drops those of which too little is left."""
    x1, y1, x2, y2 = window
    lower = np.array([x1, y1, x1, y1], dtype=np.float32)
    upper = np.array([x2, y2, x2, y2], dtype=np.float32)
    inside = np.minimum(np.maximum(boxes, lower), upper)
    sides, whole = inside[:, 2:] - inside[:, :2], boxes[:, 2:] - boxes[:, :2]
    kept = (sides > _MIN_SIDE).all(axis=1)
    kept &= sides[:, 0] * sides[:, 1] > _MIN_VISIBLE * whole[:, 0] * whole[:, 1]
    return inside[kept], labels[kept]
