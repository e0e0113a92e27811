"""Damage before a whole end is found: all in a PNG, in a JPEG what stops a decoder."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from quantpipe.data.damage import found_damage
from quantpipe.data.images import read_header, read_image
from quantpipe.errors import DataError

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:PIL")


def encoded(image_format: str, **options: Any) -> bytes:
    pixels = np.random.default_rng(0).integers(0, 256, (60, 90, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, image_format, **options)
    return buffer.getvalue()


def decodes(path: Path) -> bool:
    try:
        read_image(path)
    except DataError:
        return False
    return True


@pytest.mark.parametrize("decode", [False, True])
@pytest.mark.parametrize(
    ("image_format", "options"),
    [
        ("PNG", {}),
        ("PNG", {"compress_level": 0}),
        ("JPEG", {}),
        ("JPEG", {"progressive": True}),
        ("JPEG", {"restart_marker_blocks": 2}),
        ("JPEG", {"comment": b"\xff\xd9\xff\x8b", "exif": b"Exif\0\0\xff\xc0\xff\xd9"}),
        ("WEBP", {}),
    ],
)
def test_whole_images_are_whole(
    tmp_path: Path, image_format: str, options: Any, decode: bool
) -> None:
    path = tmp_path / "x"
    content = encoded(image_format, **options) + b"camera data" * 30
    path.write_bytes(content)
    assert decodes(path)
    assert found_damage(path, content, decode=decode) == ""


def test_every_changed_byte_of_a_png_is_found(tmp_path: Path) -> None:
    """Also those that the header's reader believes, and those that show as wrong pixels."""
    whole = encoded("PNG")
    path = tmp_path / "x.png"
    missed = []
    for position in range(8, len(whole), 97):
        content = bytearray(whole)
        content[position] ^= 0x10
        path.write_bytes(content)
        if not found_damage(path, bytes(content), decode=False):
            missed.append(position)
    assert missed == []


def test_a_png_whose_end_is_whole_passes_its_header_and_not_this(tmp_path: Path) -> None:
    content = bytearray(encoded("PNG"))
    content[4000:4064] = bytes(64)
    path = tmp_path / "x.png"
    path.write_bytes(content)
    assert read_header(path).width == 90
    assert not decodes(path)
    damage = found_damage(path, bytes(content), decode=False)
    assert damage == "damaged: the checksum of its part at byte 33 is another"


def test_what_stops_a_decoder_in_the_pixels_of_a_jpeg_is_found(tmp_path: Path) -> None:
    """Against Pillow; what it decodes all the same is taken as it takes it."""
    whole = encoded("JPEG")
    rng = np.random.default_rng(1)
    path = tmp_path / "x.jpg"
    first = whole.index(b"\xff\xda") + 14
    stopped = 0
    for _ in range(60):
        content = bytearray(whole)
        place = rng.integers(first, len(whole) - 100)
        content[place : place + 64] = rng.bytes(64)
        path.write_bytes(content)
        stops = not decodes(path)
        stopped += stops
        assert bool(found_damage(path, bytes(content), decode=False)) == stops
    assert stopped >= 3


def test_decoding_finds_what_a_look_at_the_markers_does_not(tmp_path: Path) -> None:
    whole = encoded("JPEG")
    content = bytearray(whole)
    table = whole.index(b"\xff\xc4") + 5
    content[table : table + 16] = b"\xff" * 16  # more codes than a Huffman table holds
    path = tmp_path / "x.jpg"
    path.write_bytes(content)
    assert not decodes(path)
    assert found_damage(path, bytes(content), decode=False) == ""
    assert found_damage(path, bytes(content), decode=True).startswith("unreadable image")
