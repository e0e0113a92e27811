"""Pictures of shapes: anti-aliased outlines, textured fills, cluttered backgrounds.

Everything is float32 RGB in 0..255 until the end, and drawn from one generator.
"""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

Float = NDArray[np.float32]

KINDS = ("circle", "square", "triangle", "star", "cross")
_SUPERSAMPLING = 8  # sub-pixels along each side that a coverage is counted from
_LEAST = 1 / 8  # coverage that shows; less would widen boxes by what nobody can see


def outline(kind: str) -> Float:
    """Returns the corners (k, 2) of a shape within the unit circle, around its middle."""
    if kind == "circle":
        return _on_circle(np.ones(48))
    if kind == "square":
        return _on_circle(np.ones(4), turn=np.pi / 4)
    if kind == "triangle":
        return _on_circle(np.ones(3))
    if kind == "star":
        return _on_circle(np.tile([1.0, 0.45], 5))
    assert kind == "cross", kind
    arm, end = 0.31, 0.95
    quarter = np.array([[arm, end], [arm, arm], [end, arm]])
    turns = ([[1, 0], [0, 1]], [[0, 1], [-1, 0]], [[-1, 0], [0, -1]], [[0, -1], [1, 0]])
    return np.concatenate([quarter @ np.array(turn).T for turn in turns]).astype(np.float32)


def polygon(num_corners: int) -> Float:
    """Returns the corners of a regular polygon in the unit circle."""
    return _on_circle(np.ones(num_corners))


def coverage(corners: Float, width: int, height: int) -> tuple[Float, tuple[int, int]]:
    """Renders the part of each pixel that a filled polygon covers.

    Args:
        corners: (k, 2) x, y pixels of the whole picture.
        width: Of the picture.
        height: Of the picture.

    Returns:
        The coverage (h, w) in 0..1 of the smallest patch inside the picture that holds all of
        the polygon, without an empty border row or column; and the patch's left and top. Less
        than an eighth counts as none. The patch is the bounding box; empty if nothing is visible.
    """
    low = np.maximum(np.floor(corners.min(axis=0)) - 1, 0).astype(int)
    high = np.minimum(np.ceil(corners.max(axis=0)) + 1, (width, height)).astype(int)
    columns, rows = np.maximum(high - low, 0).tolist()
    if columns == 0 or rows == 0:
        return np.zeros((0, 0), dtype=np.float32), (0, 0)
    fine = np.zeros((rows * _SUPERSAMPLING, columns * _SUPERSAMPLING), dtype=np.uint8)
    # Sub-pixel centers lie half a sub-pixel inside; fillPoly takes 8 fractional bits.
    points = ((corners - low) * _SUPERSAMPLING - 0.5) * 256
    cv2.fillPoly(fine, [np.rint(points).astype(np.int32)], 255, shift=8)
    alpha = cv2.resize(fine, (columns, rows), interpolation=cv2.INTER_AREA) / np.float32(255)
    alpha[alpha < _LEAST] = 0
    ys, xs = np.flatnonzero(alpha.any(axis=1)), np.flatnonzero(alpha.any(axis=0))
    if not len(ys):
        return np.zeros((0, 0), dtype=np.float32), (0, 0)
    patch = alpha[ys[0] : ys[-1] + 1, xs[0] : xs[-1] + 1]
    return patch, (int(low[0] + xs[0]), int(low[1] + ys[0]))


def paint(canvas: Float, alpha: Float, corner: tuple[int, int], fill: Float) -> None:
    """Blends a fill (h, w, 3) or (3,) over the canvas, in place, where ``alpha`` covers it."""
    left, top = corner
    height, width = alpha.shape
    region = canvas[top : top + height, left : left + width]
    region += alpha[..., None] * (fill - region)


def cloud(width: int, height: int, rng: np.random.Generator) -> Float:
    """Returns smooth colored noise of several octaves, (H, W, 3) around 0, about +-1."""
    total = np.zeros((height, width, 3), dtype=np.float32)
    for cells, weight in ((2, 1.0), (5, 0.7), (12, 0.45), (32, 0.3)):
        grid = rng.uniform(-1, 1, (cells, cells, 3)).astype(np.float32)
        total += weight * cv2.resize(grid, (width, height), interpolation=cv2.INTER_CUBIC)
    return total / np.float32(1.3)


def texture(
    height: int, width: int, color: Float, strength: float, rng: np.random.Generator
) -> Float:
    """Returns a fill (h, w, 3): plain, shaded, striped, checked or grainy around ``color``."""
    rows, columns = np.mgrid[0:height, 0:width].astype(np.float32)
    angle = rng.uniform(0, np.pi)
    along = np.cos(angle) * columns + np.sin(angle) * rows
    across = np.cos(angle) * rows - np.sin(angle) * columns
    period = rng.uniform(3, 9)
    style = rng.integers(5)
    if style == 1:
        pattern = (along - along.mean()) / (np.abs(along - along.mean()).max() + 1)
    elif style == 2:
        pattern = np.sign(np.sin(2 * np.pi * along / period))
    elif style == 3:
        pattern = np.sign(np.sin(2 * np.pi * along / period) * np.sin(2 * np.pi * across / period))
    elif style == 4:
        pattern = rng.uniform(-1, 1, (height, width))
    else:
        pattern = np.zeros((height, width))
    tint = strength * rng.uniform(0.4, 1.0, 3)
    fill: Float = (color + pattern[..., None] * tint).astype(np.float32)
    return fill


def _on_circle(radii: NDArray[np.float64], turn: float = 0.0) -> Float:
    angles = turn + np.arange(len(radii)) * (2 * np.pi / len(radii))
    points = np.stack((np.cos(angles), np.sin(angles)), axis=1) * radii[:, None]
    return points.astype(np.float32)
