"""Image files to upright 8-bit RGB, with the size known and limited before decoding.

Pillow decodes, because it reports a truncated file where OpenCV returns half a picture.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from quantpipe.errors import DataError
from quantpipe.given_files import fault_of

_JPEG = {".jfif", ".jpe", ".jpeg", ".jpg", ".mpo"}
_PPM = {".pbm", ".pgm", ".pnm", ".ppm"}
SUFFIXES = frozenset({".avif", ".bmp", ".gif", ".png", ".tif", ".tiff", ".webp"} | _JPEG | _PPM)
MAX_PIXELS = 89_000_000  # just below the limit at which Pillow starts to warn
PADDING = 114  # the gray of the letterbox, also what shows through transparent pixels

# No format whose decoder starts another program (EPS) or fetches anything.
_FORMATS = ("AVIF", "BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")  # MPO comes with JPEG
_BOMB = (Image.DecompressionBombError, Image.DecompressionBombWarning)
# Everything that Pillow's decoders were seen to raise on damaged files.
_DAMAGE = (
    OSError,
    SyntaxError,
    ValueError,
    EOFError,
    LookupError,
    TypeError,
    OverflowError,
    struct.error,
    zlib.error,
)
_ORIENTATION = 0x0112
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_ALPHA = frozenset({"RGBA", "RGBa", "LA", "La", "PA"})
_SCALED = frozenset({"I;16", "I;16B", "I;16L", "I;16N"})
_UNBOUNDED = frozenset({"I", "F"})


@dataclass(frozen=True, kw_only=True)
class ImageHeader:
    """Size in pixels of the upright image, and the EXIF orientation (1..8) it was stored in."""

    width: int
    height: int
    orientation: int


def read_header(path: Path) -> ImageHeader:
    """Returns the size of an image without decoding it, if the file looks whole.

    A JPEG or PNG that ends as it should is believed; any other file is decoded to be sure.

    Raises:
        DataError: The file is missing, empty, no image, cut short or too large, or has pixels of
            unknown range.
    """
    with _opened(path) as (file, image):
        _refuse_unbounded(image, path)
        orientation = _orientation(image)
        width, height = image.size
        if not _ends_well(file, image.format):
            image.load()
    if orientation >= 5:
        width, height = height, width
    return ImageHeader(width=width, height=height, orientation=orientation)


def read_image(path: Path) -> NDArray[np.uint8]:
    """Returns an image as it should be seen: (H, W, 3) RGB, EXIF rotation applied.

    Sixteen-bit gray is scaled (65535 is white), and transparent pixels show the padding gray.

    Raises:
        DataError: The file is not a whole image, is too large, or has pixels of unknown range.
    """
    with _opened(path) as (_, image):
        turn = _UPRIGHT.get(_orientation(image))
        rgb = _to_rgb(image, path)
        upright = rgb if turn is None else rgb.transpose(turn)
        return np.array(upright)  # a copy: what Pillow lends is read-only


def stored_to_upright(
    boxes: NDArray[np.float64], *, orientation: int, width: int, height: int
) -> NDArray[np.float64]:
    """Moves boxes from the stored frame of an image to its upright frame.

    Args:
        boxes: (n, 4) x1, y1, x2, y2 pixels in the stored frame.
        orientation: EXIF orientation, 1 to 8.
        width: Of the stored image, pixels.
        height: Of the stored image, pixels.
    """
    x1, y1, x2, y2 = boxes.T
    left, right = width - x2, width - x1
    top, bottom = height - y2, height - y1
    upright = {
        1: (x1, y1, x2, y2),
        2: (left, y1, right, y2),
        3: (left, top, right, bottom),
        4: (x1, top, x2, bottom),
        5: (y1, x1, y2, x2),
        6: (top, x1, bottom, x2),
        7: (top, left, bottom, right),
        8: (y1, left, y2, right),
    }
    return np.stack(upright[orientation], axis=1)


@contextmanager
def _opened(path: Path) -> Iterator[tuple[BinaryIO, Image.Image]]:
    cause = fault_of(path)
    if cause is not None:
        raise DataError(cause, path=path)
    try:
        with path.open("rb") as file, Image.open(file, formats=_FORMATS) as image:
            _refuse_bomb(image, path)
            yield file, image
    except _BOMB as error:
        raise DataError(f"too many pixels (at most {MAX_PIXELS})", path=path) from error
    except UnidentifiedImageError as error:
        cause = "empty file" if path.stat().st_size == 0 else "not an image"
        raise DataError(cause, path=path) from error
    except _DAMAGE as error:
        if isinstance(error, OSError) and error.strerror:
            raise DataError(f"cannot be read ({error.strerror})", path=path) from error
        cause = str(error) or type(error).__name__
        raise DataError(f"unreadable image ({cause})", path=path) from error


def _refuse_bomb(image: Image.Image, path: Path) -> None:
    width, height = image.size
    if width * height > MAX_PIXELS:
        raise DataError(f"{width}x{height} is too many pixels (at most {MAX_PIXELS})", path=path)


def _refuse_unbounded(image: Image.Image, path: Path) -> None:
    if image.mode in _UNBOUNDED:
        raise DataError(
            f"{image.mode} pixels (32-bit) have no known range",
            path=path,
            hint="convert the image to 8 or 16 bits",
        )


def _orientation(image: Image.Image) -> int:
    if image.format == "TIFF":
        return 1  # Pillow turns these itself when it loads them, and already states their size
    try:
        # The plain method: the PNG one would decode the whole picture to look behind it.
        value = Image.Image.getexif(image).get(_ORIENTATION, 1)
    except _DAMAGE:
        return 1  # damaged camera data says nothing about the pixels
    return value if value in _UPRIGHT else 1


def _ends_well(file: BinaryIO, image_format: str | None) -> bool:
    position = file.tell()
    size = file.seek(0, 2)
    file.seek(max(0, size - 64))
    tail = file.read().rstrip(b"\0\r\n")
    file.seek(position)
    if image_format in ("JPEG", "MPO"):
        return tail.endswith(b"\xff\xd9")
    return image_format == "PNG" and b"IEND" in tail


def _to_rgb(image: Image.Image, path: Path) -> Image.Image:
    _refuse_unbounded(image, path)
    if image.mode in _SCALED:
        values = np.asarray(image).astype(np.uint32)
        scaled = ((values * 255 + 32767) // 65535).astype(np.uint8)
        return Image.fromarray(scaled).convert("RGB")
    if image.mode in _ALPHA or "transparency" in image.info:
        colors = image.convert("RGBA")
        backdrop = Image.new("RGBA", colors.size, (PADDING, PADDING, PADDING, 255))
        return Image.alpha_composite(backdrop, colors).convert("RGB")
    return image.convert("RGB")
