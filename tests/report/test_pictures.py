import base64
import io
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from quantpipe.report.pictures import detection_picture

GRAY = np.full((60, 120, 3), 128, dtype=np.uint8)


def _drawn(boxes: list[list[float]], scores: list[float], labels: list[int]) -> NDArray[Any]:
    uri = detection_picture(
        GRAY,
        np.array(boxes, dtype=np.float32).reshape(-1, 4),
        np.array(scores, dtype=np.float32),
        np.array(labels, dtype=np.int64),
        ("cell", "platelet"),
        min_score=0.3,
        side=240,
    )
    prefix = "data:image/png;base64,"
    assert uri.startswith(prefix)
    content = base64.b64decode(uri.removeprefix(prefix), validate=True)
    return np.asarray(Image.open(io.BytesIO(content)).convert("RGB")).astype(int)


def _is_near(pixel: NDArray[Any], color: tuple[int, int, int]) -> bool:
    return bool(np.abs(pixel - color).max() < 12)


def test_boxes_scale_with_the_picture_and_have_the_color_of_their_class() -> None:
    drawn = _drawn([[20, 25, 50, 55], [70, 30, 110, 50]], [0.9, 0.8], [0, 1])
    assert drawn.shape == (120, 240, 3)
    assert _is_near(drawn[80, 40], (230, 57, 70))  # left side of the first, at twice its place
    assert _is_near(drawn[80, 220], (29, 120, 220))  # right side of the second
    assert _is_near(drawn[80, 70], (128, 128, 128))


def test_faint_and_absent_detections_draw_nothing() -> None:
    for drawn in (_drawn([[20, 25, 50, 55]], [0.2], [0]), _drawn([], [], [])):
        assert _is_near(drawn.min(axis=(0, 1)), (128, 128, 128))
        assert _is_near(drawn.max(axis=(0, 1)), (128, 128, 128))


def test_boxes_past_the_border_and_without_size_are_drawn_all_the_same() -> None:
    drawn = _drawn([[-10, -10, 300, 300], [50, 20, 50, 20], [60, 40, 50, 30]], [0.9] * 3, [0] * 3)
    assert drawn.shape == (120, 240, 3)
