"""Photographs with detections drawn on them, as PNG data URIs."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

# Distinct next to each other and on photographs; classes past the last start again.
_COLORS = (
    (230, 57, 70),
    (29, 120, 220),
    (34, 160, 90),
    (245, 158, 11),
    (146, 84, 222),
    (0, 168, 181),
    (217, 70, 160),
    (120, 144, 30),
    (96, 76, 60),
    (90, 104, 120),
)
_DARK, _LIGHT = (17, 24, 32), (255, 255, 255)


def detection_picture(
    image: NDArray[np.uint8],
    boxes: NDArray[np.floating[Any]],
    scores: NDArray[np.floating[Any]],
    labels: NDArray[np.integer[Any]],
    class_names: Sequence[str],
    *,
    min_score: float = 0.3,
    side: int = 480,
) -> str:
    """Draws detections on an image and returns it as ``data:image/png;base64,...``.

    The picture has at most 256 colors: a report with several stays small enough to send. The
    arguments are those of :func:`detection_image`.
    """
    picture = detection_image(
        image, boxes, scores, labels, class_names, min_score=min_score, side=side
    )
    return _data_uri(picture)


def detection_image(
    image: NDArray[np.uint8],
    boxes: NDArray[np.floating[Any]],
    scores: NDArray[np.floating[Any]],
    labels: NDArray[np.integer[Any]],
    class_names: Sequence[str],
    *,
    min_score: float = 0.3,
    side: int = 480,
) -> Image.Image:
    """Draws detections on an image.

    Args:
        image: (H, W, 3) RGB.
        boxes: (n, 4) x1, y1, x2, y2 in pixels of ``image``.
        scores: (n,)
        labels: (n,) indices into ``class_names``.
        class_names: What to write on the boxes.
        min_score: Less confident detections are not drawn.
        side: Longer side of the picture in pixels.
    """
    scale = side / max(image.shape[:2])
    height, width = (max(round(length * scale), 1) for length in image.shape[:2])
    picture = Image.fromarray(image).resize((width, height), Image.Resampling.LANCZOS)
    draw = ImageDraw.Draw(picture)
    font = ImageFont.load_default(size=max(side / 40, 9))
    order = np.argsort(scores, kind="stable")  # the most confident last, so on top
    order = order[np.asarray(scores)[order] >= min_score]
    scaled = np.asarray(boxes, dtype=np.float64).reshape(-1, 4) * scale
    colors = [_COLORS[int(label) % len(_COLORS)] for label in labels]
    for index in order:
        left, top, right, bottom = scaled[index].tolist()
        corners = (left, top, max(left, right), max(top, bottom))
        draw.rectangle(corners, outline=colors[index], width=2)
    for index in order:
        text = f"{class_names[int(labels[index])]} {scores[index]:.2f}"
        _write_tag(draw, scaled[index].tolist(), text, colors[index], font)
    return picture


def _write_tag(
    draw: ImageDraw.ImageDraw,
    corners: Sequence[float],
    text: str,
    color: tuple[int, int, int],
    font: ImageFont.FreeTypeFont | ImageFont.ImageFont,
) -> None:
    """Writes ``text`` above a box, or inside it at the upper border of the picture."""
    left, top = corners[:2]
    _, _, width, height = draw.textbbox((0, 0), text, font=font)
    at_x = max(min(left, draw.im.size[0] - width - 4), 0)
    at_y = top - height - 3 if top >= height + 3 else max(top, 0)
    draw.rectangle((at_x, at_y, at_x + width + 4, at_y + height + 3), fill=color)
    draw.text((at_x + 2, at_y + 1), text, fill=_readable_on(color), font=font)


def _readable_on(color: tuple[int, int, int]) -> tuple[int, int, int]:
    red, green, blue = color
    return _DARK if 0.299 * red + 0.587 * green + 0.114 * blue > 150 else _LIGHT


def _data_uri(picture: Image.Image) -> str:
    buffer = io.BytesIO()
    picture.quantize(256).save(buffer, format="PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()
