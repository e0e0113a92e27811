"""Damage inside image files whose ends are whole, found at a small part of what decoding costs.

A PNG carries a checksum of each of its parts. A JPEG carries none, but what its decoders give up
on, rather than show as wrong pixels, is nearly always a marker where none may be. Other formats are
decoded when their headers are read.
"""

from __future__ import annotations

import re
import struct
import zlib
from pathlib import Path

from quantpipe.data.images import read_image
from quantpipe.errors import DataError

_PNG = b"\x89PNG\r\n\x1a\n"
_JPEG = b"\xff\xd8"
_LONE = frozenset({0x01, *range(0xD0, 0xD8)})  # markers that no length follows
_START_OF_SCAN, _END = 0xDA, 0xD9
# A marker is what follows 0xFF and is neither a stuffed zero, a fill byte, nor a restart.
_MARKER = re.compile(rb"\xff[^\x00\xff\xd0-\xd7]")
# Between scans: tables, restart interval, number of lines, comments, application data, scans.
_BETWEEN = frozenset({0xC4, 0xCC, 0xDB, 0xDC, 0xDD, _START_OF_SCAN, 0xFE, *range(0xE0, 0xF0)})


def found_damage(path: Path, content: bytes, *, decode: bool) -> str:
    """Returns what is broken in an image file, "" where nothing is known to be.

    Args:
        path: The file.
        content: Its bytes.
        decode: Whether to decode every image to be sure; else a JPEG is decoded where it looks
            broken, and a PNG not at all.
    """
    if content.startswith(_PNG) and (damage := _png_damage(content)):
        return damage
    suspect = content.startswith(_JPEG) and _jpeg_looks_damaged(content)
    return _decoding_fails(path) if decode or suspect else ""


def _decoding_fails(path: Path) -> str:
    try:
        read_image(path)
    except DataError as error:
        return error.cause
    return ""


def _png_damage(content: bytes) -> str:
    view, start = memoryview(content), len(_PNG)
    while start + 12 <= len(content):
        size, kind = struct.unpack_from(">I4s", content, start)
        end = start + 8 + size
        if end + 4 > len(content):
            return f"damaged: its part at byte {start} leads past its end"
        # Only what a decoder needs: it skips the rest, whose names begin with a small letter.
        if kind[:1].isupper():
            (stated,) = struct.unpack_from(">I", content, end)
            if zlib.crc32(view[start + 4 : end]) != stated:
                return f"damaged: the checksum of its part at byte {start} is another"
        if kind == b"IEND":
            return ""
        start = end + 4
    return "damaged: it has no end"


def _jpeg_looks_damaged(content: bytes) -> bool:
    position = len(_JPEG)
    scanned = False
    while (found := _MARKER.search(content, position)) is not None:
        marker, position = content[found.start() + 1], found.end()
        if marker == _END:
            return False
        if marker in _LONE:
            continue
        if (scanned and marker not in _BETWEEN) or position + 2 > len(content):
            return True
        position += struct.unpack_from(">H", content, position)[0]
        scanned = scanned or marker == _START_OF_SCAN
    return True
