from __future__ import annotations

import struct
import time
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image, ImageOps

from quantpipe.data.images import read_header, read_image, stored_to_upright
from quantpipe.errors import DataError


def picture(height: int = 24, width: int = 40) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    rng = np.random.default_rng(0)
    return rng.integers(0, 256, (height, width, 3), dtype=np.uint8)


def save(path: Path, image: Image.Image, orientation: int = 1) -> Path:
    exif = Image.Exif()
    exif[0x0112] = orientation
    image.save(path, exif=exif)
    return path


def test_rgb_is_kept(tmp_path: Path) -> None:
    path = save(tmp_path / "x.png", Image.fromarray(picture()))
    np.testing.assert_array_equal(read_image(path), picture())


@pytest.mark.parametrize("suffix", ["png", "jpg", "webp", "tif"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_rotation(tmp_path: Path, suffix: str, orientation: int) -> None:
    path = save(tmp_path / f"x.{suffix}", Image.fromarray(picture()), orientation)
    with Image.open(path) as image:
        expected = np.asarray(ImageOps.exif_transpose(image).convert("RGB"))
    header = read_header(path)
    assert (header.height, header.width) == expected.shape[:2]
    assert expected.shape[:2] == ((24, 40) if orientation < 5 else (40, 24))
    np.testing.assert_array_equal(read_image(path), expected)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_boxes_turn_with_their_pixels(tmp_path: Path, orientation: int) -> None:
    stored = np.zeros((24, 40, 3), dtype=np.uint8)
    stored[3:9, 5:30] = 255
    path = save(tmp_path / "x.png", Image.fromarray(stored), orientation)
    (turned,) = stored_to_upright(
        np.array([[5.0, 3.0, 30.0, 9.0]]), orientation=orientation, width=40, height=24
    )
    rows, columns = np.nonzero(read_image(path)[..., 0])
    extent = (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
    assert tuple(turned) == extent


def test_sixteen_bit_gray_is_scaled(tmp_path: Path) -> None:
    values = np.linspace(0, 65535, 24 * 40).reshape(24, 40).astype(np.uint16)
    path = tmp_path / "x.png"
    assert cv2.imwrite(str(path), values)
    expected = np.rint(values / 257.0)
    np.testing.assert_array_equal(read_image(path), np.repeat(expected[..., None], 3, axis=2))


def test_sixteen_bit_color_is_scaled(tmp_path: Path) -> None:
    values = picture().astype(np.uint16) * 257
    path = tmp_path / "x.png"
    assert cv2.imwrite(str(path), values[..., ::-1])
    np.testing.assert_array_equal(read_image(path), picture())


@pytest.mark.parametrize("mode", ["I", "F"])
def test_pixels_of_unknown_range_are_refused(tmp_path: Path, mode: str) -> None:
    path = tmp_path / "x.tif"
    Image.new(mode, (4, 4)).save(path)
    with pytest.raises(DataError, match="no known range"):
        read_image(path)


@pytest.mark.parametrize("mode", ["1", "L", "P"])
def test_one_channel_becomes_three(tmp_path: Path, mode: str) -> None:
    image = Image.fromarray(picture()).convert(mode)
    path = tmp_path / "x.png"
    image.save(path)
    np.testing.assert_array_equal(read_image(path), np.asarray(image.convert("RGB")))


def test_cmyk_shows_the_colors_that_were_meant(tmp_path: Path) -> None:
    path = tmp_path / "x.jpg"
    Image.new("CMYK", (16, 16), (0, 255, 255, 0)).save(path, quality=95)  # red ink
    assert np.abs(read_image(path).astype(int) - [255, 0, 0]).max() <= 3


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_transparent_pixels_show_the_padding_gray(tmp_path: Path, mode: str) -> None:
    color = (200, 200, 200) if mode == "RGBA" else (200,)
    image = Image.new(mode, (8, 4), (*color, 0))
    image.paste((*color, 255), (0, 0, 4, 4))
    path = tmp_path / "x.png"
    image.save(path)
    pixels = read_image(path)
    assert (pixels[:, :4] == 200).all()
    assert (pixels[:, 4:] == 114).all()


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "tif", "bmp", "gif"])
def test_truncated_files_are_found_without_loading_whole_ones(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"x.{suffix}"
    Image.fromarray(picture(90, 120)).save(path)
    content = path.read_bytes()
    assert read_header(path).width == 120
    for part in (0.3, 0.6, 0.95):
        path.write_bytes(content[: int(len(content) * part)])
        with pytest.raises(DataError) as caught:
            read_header(path)
        assert caught.value.path == path
        with pytest.raises(DataError):
            read_image(path)


def test_trailing_bytes_after_a_whole_jpeg_are_fine(tmp_path: Path) -> None:
    path = tmp_path / "x.jpg"
    Image.fromarray(picture()).save(path)
    path.write_bytes(path.read_bytes() + b"camera data" * 30)
    assert read_header(path).width == 40


@pytest.mark.parametrize(
    ("content", "cause"),
    [(b"", "empty file"), (b"no picture at all", "not an image"), (b"%!PS-Adobe-3.0", "not an")],
)
def test_what_is_no_image_is_refused(tmp_path: Path, content: bytes, cause: str) -> None:
    path = tmp_path / "x.jpg"
    path.write_bytes(content)
    with pytest.raises(DataError, match=cause):
        read_header(path)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such file") as caught:
        read_image(tmp_path / "gone.jpg")
    assert caught.value.path == tmp_path / "gone.jpg"


def one_bit_png(path: Path, side: int) -> Path:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    row = b"\0" + b"\0" * (side // 8)
    body = chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0))
    body += chunk(b"IDAT", zlib.compress(row * side, 1)) + chunk(b"IEND", b"")
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + body)
    return path


@pytest.mark.parametrize("side", [9440, 20_000])
def test_a_decompression_bomb_is_refused_from_its_header(tmp_path: Path, side: int) -> None:
    path = one_bit_png(tmp_path / "bomb.png", side)
    started = time.process_time()
    for read in (read_header, read_image):
        with pytest.raises(DataError, match="too many pixels"):
            read(path)
    assert time.process_time() - started < 0.1
