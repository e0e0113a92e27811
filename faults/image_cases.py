"""Image files: damaged, too large, of every mode, and of names that lie (rows 19 to 21)."""

from __future__ import annotations

import io
import random
import struct
import zlib
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from faults.cases import LONGEST, Case, Place, Prepared, wrong_line
from faults.watched import bounded
from PIL import Image, ImageOps

from quantpipe.data.damage import found_damage
from quantpipe.data.images import read_header, read_image
from quantpipe.errors import DataError

_WIDTH, _HEIGHT = 40, 24
_GREY = 114
_SUFFIXES = ("jpg", "png", "webp", "tif", "bmp", "gif", "ppm")
_READERS: dict[str, Callable[[Path], object]] = {"header": read_header, "pixels": read_image}


def image_cases() -> Iterator[Case]:
    """All of them."""
    yield from _no_images()
    yield from _cut_and_flipped()
    yield from _damaged_inside()
    yield from _modes()
    yield from _turned()
    yield from _bombs()


def picture(height: int = _HEIGHT, width: int = _WIDTH) -> Any:
    """The same noise every time: (H, W, 3) uint8."""
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)


def encoded(suffix: str, height: int = _HEIGHT, width: int = _WIDTH) -> bytes:
    """A picture in a format."""
    buffer = io.BytesIO()
    kind = {"jpg": "JPEG", "tif": "TIFF"}.get(suffix, suffix.upper())
    Image.fromarray(picture(height, width)).save(buffer, kind)
    return buffer.getvalue()


def _no_images() -> Iterator[Case]:
    contents: dict[str, Callable[[Path], object]] = {
        "an empty file": lambda path: path.write_bytes(b""),
        "text": lambda path: path.write_bytes(b"no picture at all"),
        "PostScript": lambda path: path.write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%EOF\n"),
        "a PDF": lambda path: path.write_bytes(b"%PDF-1.7\n"),
        "an SVG": lambda path: path.write_bytes(b'<svg xmlns="http://www.w3.org/2000/svg"/>'),
        "a zip": lambda path: path.write_bytes(b"PK\x03\x04" + bytes(99)),
        "only zeros": lambda path: path.write_bytes(bytes(4096)),
        "a folder": lambda path: path.mkdir(),
        "nothing": lambda path: None,
        "a link to nothing": lambda path: path.symlink_to("nowhere"),
        "a link to itself": lambda path: path.symlink_to(path),
        "only the mark of a JPEG": lambda path: path.write_bytes(b"\xff\xd8\xff"),
        "only the mark of a PNG": lambda path: path.write_bytes(b"\x89PNG\r\n\x1a\n"),
        "only the mark of a TIFF": lambda path: path.write_bytes(b"II*\0\x08\0\0\0"),
        "a TIFF that refers to itself": lambda path: path.write_bytes(_looping_tiff()),
        "an icon": lambda path: Image.new("RGB", (16, 16)).save(path, "ICO"),
        "a TGA": lambda path: Image.new("RGB", (16, 16)).save(path, "TGA"),
    }  # fmt: skip
    for reader, read in _READERS.items():
        for name, write in contents.items():

            def prepare(
                at: Place,
                write: Callable[[Path], object] = write,
                read: Callable[[Path], object] = read,
            ) -> Prepared:
                path = at.root / "x.jpg"
                write(path)
                return lambda: read(path)

            yield Case(
                row=19, name=f"{name}, {reader}", prepare=prepare, error=DataError, says=("x.jpg",)
            )


def _looping_tiff() -> bytes:
    return b"II*\0\x08\0\0\0" + struct.pack("<H", 0) + struct.pack("<I", 8)


def _cut_and_flipped() -> Iterator[Case]:
    for suffix in _SUFFIXES:
        whole = encoded(suffix, 90, 120)
        for reader, read in _READERS.items():
            for part in (2, 10, 30, 60, 90):

                def cut(
                    at: Place,
                    content: bytes = whole[: len(whole) * part // 100],
                    read: Callable[[Path], object] = read,
                    suffix: str = suffix,
                ) -> Prepared:
                    path = at.root / f"x.{suffix}"
                    path.write_bytes(content)
                    return lambda: read(path)

                yield Case(
                    row=19,
                    name=f"{suffix} cut at {part} %, {reader}",
                    prepare=cut,
                    error=DataError,
                    says=(f"x.{suffix}",),
                )
        for number in range(12):
            yield _flipped(suffix, whole, number)


def _flipped(suffix: str, whole: bytes, number: int) -> Case:
    """A damaged byte: refused, or a picture of a size that is allowed, never anything else."""

    def prepare(at: Place) -> Prepared:
        content = bytearray(whole)
        rng = random.Random(number)
        for _ in range(number + 1):
            content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
        path = at.root / f"x.{suffix}"
        path.write_bytes(content)
        return lambda: _picture_or_refusal(path)

    return Case(
        row=19,
        name=f"{suffix} with {number + 1} flipped bits",
        prepare=prepare,
        error=None,
        accepts=lambda problem: problem,
    )


def _picture_or_refusal(path: Path) -> str | None:
    for read in _READERS.values():
        try:
            read(path)
        except DataError as error:
            if problem := wrong_line(str(error), (path.name,)):
                return problem
    return None


def _damaged_inside() -> Iterator[Case]:
    """Images whose ends are whole: any changed byte of a PNG, and what stops a decoder of JPEGs."""
    chance = random.Random(3)
    for suffix in ("png", "jpg"):
        whole = encoded(suffix)
        for number in range(40):
            content = bytearray(whole)
            place = chance.randrange(40, len(whole) - 40)
            content[place : place + 8] = chance.randbytes(8)
            yield _looked_at(f"{suffix} changed inside {number}", f"x.{suffix}", bytes(content))
        yield _looked_at(f"{suffix} that is whole", f"x.{suffix}", whole)


def _looked_at(name: str, file: str, content: bytes) -> Case:
    def prepare(at: Place) -> Prepared:
        path = at.root / file
        path.write_bytes(content)
        return lambda: (path, found_damage(path, content, decode=True))

    def accepts(returned: tuple[Path, str]) -> str | None:
        path, damage = returned
        changed = content != encoded(path.suffix[1:])
        must_be_found = changed and (path.suffix == ".png" or not _decodes(path))
        return None if bool(damage) == must_be_found else f"says {damage!r}"

    return Case(row=19, name=name, prepare=prepare, error=None, accepts=accepts)


def _decodes(path: Path) -> bool:
    try:
        read_image(path)
    except DataError:
        return False
    return True


def _modes() -> Iterator[Case]:
    """Right pixels, or a refusal; compared with closed forms."""
    noise = picture()
    values = np.linspace(0, 65535, _WIDTH * _HEIGHT).reshape(_HEIGHT, _WIDTH).astype(np.uint16)
    scaled = np.repeat(np.rint(values / 257.0)[..., None], 3, axis=2)
    image = Image.fromarray(noise)
    golden: dict[str, tuple[Callable[[Path], object], str, Any]] = {
        "16-bit gray PNG": (lambda path: cv2.imwrite(str(path), values), "png", scaled),
        "16-bit gray TIFF": (lambda path: cv2.imwrite(str(path), values), "tif", scaled),
        "16-bit color PNG": (
            lambda path: cv2.imwrite(str(path), noise[..., ::-1].astype(np.uint16) * 257),
            "png",
            noise,
        ),
        "one bit": (image.convert("1").save, "png", _rgb(image.convert("1"))),
        "gray PNG": (image.convert("L").save, "png", _rgb(image.convert("L"))),
        "gray BMP": (image.convert("L").save, "bmp", _rgb(image.convert("L"))),
        "palette PNG": (image.convert("P").save, "png", _rgb(image.convert("P"))),
        "palette GIF": (image.convert("P").save, "gif", _rgb(image.convert("P"))),
        "RGB PNG": (image.save, "png", noise),
        "RGB as .jpg though it is a PNG": (
            lambda path: image.save(path, "PNG"),
            "jpg",
            noise,
        ),
        "RGB without a known suffix": (lambda path: image.save(path, "PNG"), "dat", noise),
        "opaque RGBA": (image.convert("RGBA").save, "png", noise),
        "transparent RGBA": (_transparent("RGBA").save, "png", _half_gray()),
        "transparent LA": (_transparent("LA").save, "png", _half_gray()),
        "transparent palette": (_transparent_palette, "png", _half_gray()),
    }
    for name, (write, suffix, expected) in golden.items():
        yield _golden(20, name, write, f"x.{suffix}", expected)
    for name, color, expected_color in (
        ("red", (0, 255, 255, 0), (255, 0, 0)),
        ("white", (0, 0, 0, 0), (255, 255, 255)),
        ("black", (0, 0, 0, 255), (0, 0, 0)),
    ):
        yield _golden(
            20,
            f"CMYK {name}",
            partial(_save_cmyk, color),
            "x.jpg",
            np.broadcast_to(np.array(expected_color), (16, 16, 3)),
            tolerance=3,
        )
    for mode in ("I", "F"):

        def prepare(at: Place, mode: str = mode) -> Prepared:
            path = at.root / "x.tif"
            Image.new(mode, (4, 4)).save(path)
            return lambda: read_image(path)

        yield Case(
            row=20,
            name=f"32-bit {mode}",
            prepare=prepare,
            error=DataError,
            says=("x.tif", "no known range"),
        )


def _save_cmyk(color: tuple[int, int, int, int], path: Path) -> None:
    Image.new("CMYK", (16, 16), color).save(path, quality=95)


def _put(content: bytes, path: Path) -> None:
    path.write_bytes(content)


def _rgb(image: Image.Image) -> Any:
    return np.asarray(image.convert("RGB"))


def _transparent(mode: str) -> Image.Image:
    color = (200, 200, 200) if mode == "RGBA" else (200,)
    image = Image.new(mode, (8, 4), (*color, 0))
    image.paste((*color, 255), (0, 0, 4, 4))
    return image


def _transparent_palette(path: Path) -> None:
    image = Image.new("P", (8, 4), 1)
    image.putpalette([200, 200, 200, 9, 9, 9])
    image.paste(0, (0, 0, 4, 4))
    image.save(path, transparency=1)


def _half_gray() -> Any:
    expected = np.full((4, 8, 3), 200)
    expected[:, 4:] = _GREY
    return expected


def _golden(
    row: int,
    name: str,
    write: Callable[[Path], object],
    file: str,
    expected: Any,
    *,
    tolerance: int = 0,
) -> Case:
    def prepare(at: Place) -> Prepared:
        path = at.root / file
        write(path)
        return lambda: (read_header(path), read_image(path))

    def accepts(returned: Any) -> str | None:
        header, pixels = returned
        if (header.height, header.width, 3) != pixels.shape or pixels.shape != expected.shape:
            return f"is {pixels.shape}, not {expected.shape}"
        off = int(np.abs(pixels.astype(int) - expected).max())
        return f"its pixels are off by {off}" if off > tolerance else None

    return Case(row=row, name=name, prepare=prepare, error=None, accepts=accepts)


def _turned() -> Iterator[Case]:
    """EXIF rotation, against Pillow's own."""
    for suffix in ("jpg", "png", "webp", "tif"):
        for orientation in (*range(1, 9), 0, 9, 255):
            exif = Image.Exif()
            exif[0x0112] = orientation
            buffer = io.BytesIO()
            kind = {"jpg": "JPEG", "tif": "TIFF"}.get(suffix, suffix.upper())
            Image.fromarray(picture()).save(buffer, kind, exif=exif)
            with Image.open(io.BytesIO(buffer.getvalue())) as image:
                expected = np.asarray(ImageOps.exif_transpose(image).convert("RGB"))
            content = buffer.getvalue()
            yield _golden(
                20,
                f"{suffix} of orientation {orientation}",
                partial(_put, content),
                f"x.{suffix}",
                expected,
            )


def _bombs() -> Iterator[Case]:
    for side in (9_440, 20_000, 60_000, 2**31 - 1):
        for reader, read in _READERS.items():
            for name, content in (
                ("PNG", _one_bit_png(side)),
                ("BMP", _bmp(side)),
                ("GIF", b"GIF89a" + 2 * struct.pack("<H", min(side, 65535)) + bytes(20)),
                ("PPM", f"P5 {side} {side} 255\n".encode()),
            ):  # fmt: skip

                def prepare(
                    at: Place,
                    content: bytes = content,
                    read: Callable[[Path], object] = read,
                ) -> Prepared:
                    path = at.root / "bomb"
                    path.write_bytes(content)
                    return lambda: _frugally(read, path)

                yield Case(
                    row=21,
                    name=f"{name} of {side} px a side, {reader}",
                    prepare=prepare,
                    error=DataError,
                    says=("bomb",),
                )


def _frugally(read: Callable[[Path], object], path: Path) -> object:
    """Reads with an allowance of memory far below what the picture would take."""
    with bounded(mib=256, seconds=LONGEST):
        return read(path)


def _one_bit_png(side: int) -> bytes:
    """Its header promises a square; the pixels compress to nothing."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        checksum = struct.pack(">I", zlib.crc32(kind + data))
        return struct.pack(">I", len(data)) + kind + data + checksum

    row = bytes(1 + min(side, 60_000) // 8)
    body = chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0))
    body += chunk(b"IDAT", zlib.compress(row * 2_000, 1)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


def _bmp(side: int) -> bytes:
    header = struct.pack("<IiiHHIIiiII", 40, side, side, 1, 1, 0, 0, 0, 0, 0, 0)
    return b"BM" + struct.pack("<IHHI", 62, 0, 0, 62) + header + bytes(8)
