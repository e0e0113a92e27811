"""A generated detection data set: hard enough to learn from, made in seconds, free to ship.

Textured shapes of five classes, each around a color of its own, on cluttered, noisy backgrounds
among shapes and strokes that are no objects. Boxes are exact: the smallest rectangle of pixels that
show the anti-aliased shape within the image, whether or not something lies over it.
"""

from __future__ import annotations

import colorsys
import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import cv2
import numpy as np
from numpy.typing import NDArray

from quantpipe.data.drawing import KINDS, Float, cloud, coverage, outline, paint, polygon, texture
from quantpipe.files import write_atomic
from quantpipe.progress import Progress

SHAPES_VERSION = 1  # raise with every change of a pixel or a box
MAX_CLASSES = len(KINDS)

_QUALITY = (
    cv2.IMWRITE_JPEG_QUALITY,
    92,
    cv2.IMWRITE_JPEG_SAMPLING_FACTOR,
    cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444,
)
_SPLITS: tuple[Literal["train", "val"], ...] = ("train", "val")
_TRIES = 12  # to place a shape before giving it up


@dataclass(frozen=True, kw_only=True)
class ShapeObject:
    """A drawn shape: its label, box (x, y, width, height in whole pixels), outline, area."""

    label: int
    bbox: tuple[int, int, int, int]
    corners: Float
    area: float


Scene = tuple[NDArray[np.uint8], list[ShapeObject]]  # an RGB picture and what is in it


def generate_shapes(
    folder: Path,
    *,
    num_train: int,
    num_val: int,
    image_size: int,
    num_classes: int,
    seed: int,
    difficulty: float,
    progress: Progress,
) -> None:
    """Writes a COCO data set: ``train/``, ``val/`` and ``annotations/instances_<split>.json``.

    The same arguments give the same files. Annotations are written last, so a folder that has
    them is whole.

    Args:
        folder: Where to; made if needed.
        num_train: Images to train on.
        num_val: Images to evaluate on; drawn independently.
        image_size: Pixels along the side of the square images.
        num_classes: 1 to 5: circle, square, triangle, star, cross.
        seed: Not negative.
        difficulty: 0 (clear) to 1 (faint, crowded, noisy).
        progress: Who watches.
    """
    assert 1 <= num_classes <= MAX_CLASSES, num_classes
    assert 0.0 <= difficulty <= 1.0, difficulty
    documents = {}
    for part, (split, number) in enumerate(zip(_SPLITS, (num_train, num_val), strict=True)):
        numbers = progress.track(range(number), f"draw {split} images", total=number)
        scenes = (
            draw_scene(image_size, num_classes, difficulty, np.random.default_rng((seed, part, n)))
            for n in numbers
        )
        documents[split] = _write_images(folder / split, scenes)
    categories = [{"id": i, "name": name} for i, name in enumerate(KINDS[:num_classes], start=1)]
    for split, document in documents.items():
        info = {"description": f"generated shapes, version {SHAPES_VERSION}, {split}"}
        content = {"info": info, **document, "categories": categories}
        path = folder / "annotations" / f"instances_{split}.json"
        write_atomic(path, json.dumps(content).encode())


def _write_images(folder: Path, scenes: Iterable[Scene]) -> dict[str, Any]:
    """Writes pictures in their order; returns their part of a COCO document."""
    folder.mkdir(parents=True, exist_ok=True)
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for image_id, (picture, objects) in enumerate(scenes, start=1):
        name = f"{image_id - 1:06d}.jpg"
        (folder / name).write_bytes(_encode(picture))
        height, width = picture.shape[:2]
        images.append({"id": image_id, "file_name": name, "width": width, "height": height})
        for drawn in objects:
            annotations.append(_annotation(len(annotations) + 1, image_id, drawn))
    return {"images": images, "annotations": annotations}


def draw_scene(size: int, num_classes: int, difficulty: float, rng: np.random.Generator) -> Scene:
    """Draws one square RGB picture (size, size, 3) and says what is in it.

    A shape is placed so that it hides at most about half of any other.
    """
    canvas = _background(size, difficulty, rng)
    for _ in range(rng.poisson(2 * difficulty)):
        _distract(canvas, difficulty, rng)
    owner = np.zeros((size, size), dtype=np.int32)  # 1 + index of the topmost object
    objects: list[ShapeObject] = []
    covered: list[float] = []
    for _ in range(int(rng.integers(2, 6, endpoint=True))):
        placed = _place(canvas, owner, covered, num_classes, difficulty, rng)
        if placed is not None:
            objects.append(placed)
            covered.append(placed.area)
    for _ in range(rng.poisson(1.5 * difficulty)):
        _stroke(canvas, difficulty, rng)
    return _photograph(canvas, difficulty, rng), objects


def _background(size: int, difficulty: float, rng: np.random.Generator) -> Float:
    gray, tint = rng.uniform(60, 195), rng.uniform(-1, 1, 3) * (10 + 30 * difficulty)
    base = (gray + tint).astype(np.float32)
    return base + cloud(size, size, rng) * np.float32(rng.uniform(10, 20 + 20 * difficulty))


def _place(
    canvas: Float,
    owner: NDArray[np.int32],
    covered: list[float],
    num_classes: int,
    difficulty: float,
    rng: np.random.Generator,
) -> ShapeObject | None:
    size = canvas.shape[0]
    label = int(rng.integers(num_classes))
    for _ in range(_TRIES):
        corners = _pose(outline(KINDS[label]), size, rng)
        alpha, (left, top) = coverage(corners, size, size)
        height, width = alpha.shape
        if min(height, width) < _min_side(size):
            continue
        below = owner[top : top + height, left : left + width]
        solid = alpha > 0.5
        if not _leaves_enough(below[solid], owner, covered):
            continue
        region = canvas[top : top + height, left : left + width]
        color = _color(region, label / MAX_CLASSES, difficulty, rng)
        fill = texture(height, width, color, rng.uniform(8, 20 + 12 * difficulty), rng)
        paint(canvas, alpha, (left, top), fill)
        below[solid] = len(covered) + 1
        bbox = (left, top, width, height)
        return ShapeObject(label=label, bbox=bbox, corners=corners, area=float(alpha.sum()))
    return None


def _min_side(size: int) -> float:
    return 12 * size / 160


def _pose(corners: Float, size: int, rng: np.random.Generator) -> Float:
    """Scales, squeezes, turns and moves a unit outline to somewhere in the picture."""
    radius = size * np.exp(rng.uniform(np.log(0.07), np.log(0.21)))
    squeeze = np.array([1.0, rng.uniform(0.7, 1.0)])
    angle = rng.uniform(0, 2 * np.pi)
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    middle = rng.uniform(0.04, 0.96, 2) * size
    posed: Float = ((corners * squeeze * radius) @ turn.T + middle).astype(np.float32)
    return posed


def _leaves_enough(
    hidden: NDArray[np.int32], owner: NDArray[np.int32], covered: list[float]
) -> bool:
    """Whether every object still shows about half of itself once these pixels are hidden."""
    losses = np.bincount(hidden, minlength=len(covered) + 1)
    for index in np.flatnonzero(losses[1:]):
        visible = np.count_nonzero(owner == index + 1) - losses[index + 1]
        if visible < 0.55 * covered[index]:
            return False
    return True


def _color(region: Float, hue: float | None, difficulty: float, rng: np.random.Generator) -> Float:
    """Returns a color near a hue (None: any) that differs from what it covers, less if harder."""
    behind = region.mean(axis=(0, 1))
    least = 90 - 30 * difficulty
    best: Float = behind
    distance = -1.0
    for _ in range(_TRIES):
        spread = rng.normal(0, 0.02 + 0.05 * difficulty)
        turn = rng.random() if hue is None else (hue + spread) % 1.0
        tone = colorsys.hsv_to_rgb(turn, rng.uniform(0.45, 1.0), rng.uniform(0.4, 1.0))
        color = np.array(tone, dtype=np.float32) * np.float32(255)
        if (far := float(np.linalg.norm(color - behind))) > distance:
            best, distance = color, far
        if distance >= least:
            break
    return best


def _distract(canvas: Float, difficulty: float, rng: np.random.Generator) -> None:
    """Draws something that is no object: a pentagon, a hexagon, a half disc or a ring."""
    size = canvas.shape[0]
    kind = rng.integers(4)
    if kind == 3:
        corners = _pose(polygon(48), size, rng)
        middle = corners.mean(axis=0)
        inner = middle + (corners - middle) * np.float32(rng.uniform(0.55, 0.75))
        corners = np.concatenate([corners, corners[:1], inner[::-1][-1:], inner[::-1]])
    else:
        shape = polygon(48)[:25] if kind == 2 else polygon(5 + int(kind))
        corners = _pose(shape, size, rng)
    alpha, (left, top) = coverage(corners.astype(np.float32), size, size)
    if not alpha.size:
        return
    height, width = alpha.shape
    region = canvas[top : top + height, left : left + width]
    color = _color(region, None, difficulty, rng)
    paint(canvas, alpha, (left, top), texture(height, width, color, rng.uniform(5, 40), rng))


def _stroke(canvas: Float, difficulty: float, rng: np.random.Generator) -> None:
    """Draws a thin line over everything."""
    size = canvas.shape[0]
    start = rng.uniform(0, size, 2)
    angle = rng.uniform(0, 2 * np.pi)
    along = np.array([np.cos(angle), np.sin(angle)]) * size * rng.uniform(0.15, 0.6)
    across = np.array([-along[1], along[0]]) / np.linalg.norm(along) * size * 0.005
    corners = start + np.stack([-across, along - across, along + across, across])
    alpha, (left, top) = coverage(corners.astype(np.float32), size, size)
    color = rng.uniform(0, 255, 3).astype(np.float32)
    paint(canvas, alpha * np.float32(0.5 + 0.2 * difficulty), (left, top), color)


def _photograph(canvas: Float, difficulty: float, rng: np.random.Generator) -> NDArray[np.uint8]:
    """Blurs a little, adds noise and changes the exposure."""
    blurred = cv2.GaussianBlur(canvas, (0, 0), rng.uniform(0.2, 0.3 + 0.25 * difficulty))
    noise = rng.standard_normal(canvas.shape, dtype=np.float32)
    noisy = blurred + noise * np.float32(rng.uniform(2, 5 + 5 * difficulty))
    exposed = (noisy - 128) * np.float32(rng.uniform(0.7, 1.1)) + np.float32(128)
    picture: NDArray[np.uint8] = np.clip(np.rint(exposed), 0, 255).astype(np.uint8)
    return picture


def _encode(picture: NDArray[np.uint8]) -> bytes:
    done, content = cv2.imencode(".jpg", cv2.cvtColor(picture, cv2.COLOR_RGB2BGR), _QUALITY)
    assert done, "JPEG encoding of an 8-bit picture cannot fail"
    return content.tobytes()


def _annotation(number: int, image_id: int, drawn: ShapeObject) -> dict[str, Any]:
    return {
        "id": number,
        "image_id": image_id,
        "category_id": drawn.label + 1,
        "bbox": list(drawn.bbox),
        "area": round(drawn.area, 2),
        "iscrowd": 0,
        "segmentation": [np.round(drawn.corners.astype(np.float64), 2).ravel().tolist()],
    }
