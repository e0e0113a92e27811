"""Text is read as its writer meant it whatever marks it begins with, and refused by its byte."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from quantpipe.data.coco import read_coco
from quantpipe.data.coco_document import read_lists
from quantpipe.data.images import read_image
from quantpipe.data.yolo import read_yolo
from quantpipe.detector.checkpoint_file import load_checkpoint
from quantpipe.detector.families.yolov6.rep_optimizer import load_scales as load_rep_scales
from quantpipe.detector.released.archive import is_archive
from quantpipe.engines.registry import read_header
from quantpipe.errors import ArtifactError, DataError, QuantpipeError
from quantpipe.given_files import fault_of, read_bytes, read_text
from quantpipe.graph.onnx_file import read_onnx
from quantpipe.quantization.precision_plan import load_plan
from quantpipe.quantization.scale_cache import load_scales
from quantpipe.quantization.sensitivity.table import load_table


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
def test_marks_are_no_part_of_the_text(tmp_path: Path, encoding: str) -> None:
    path = tmp_path / "x.txt"
    path.write_bytes("0 größe\r\n1 二\n".encode(encoding))
    assert read_text(path, DataError).splitlines() == ["0 größe", "1 二"]


@pytest.mark.parametrize("order", ["be", "le"])
@pytest.mark.parametrize("width", ["16", "32"])
def test_both_orders_of_bytes_are_read(tmp_path: Path, order: str, width: str) -> None:
    path = tmp_path / "x.txt"
    path.write_bytes("\ufeff5 0.5 ü\n".encode(f"utf-{width}-{order}"))
    assert read_text(path, DataError) == "5 0.5 ü\n"


@pytest.mark.parametrize(
    ("content", "cause"),
    [
        ("a\nbé".encode("latin-1"), "is not UTF-8 text: byte 0xe9 at 3, in line 2"),
        (b"\xff\xfea", "is not UTF-16-LE text: byte 0x61 at 2, in line 1"),
        (b"\xef\xbb\xbfa\xff", "is not UTF-8 text: byte 0xff at 4"),
    ],
)
def test_other_encodings_are_refused_with_the_byte(
    tmp_path: Path, content: bytes, cause: str
) -> None:
    path = tmp_path / "x.txt"
    path.write_bytes(content)
    with pytest.raises(ArtifactError, match=cause) as caught:
        read_text(path, ArtifactError)
    assert caught.value.path == path
    assert caught.value.hint == "save it as UTF-8"


def test_marks_of_joined_files_are_no_part_of_the_text(tmp_path: Path) -> None:
    path = tmp_path / "x.txt"
    path.write_bytes("\ufeffcat\n\ufeffdog\n".encode())
    assert read_text(path, DataError).splitlines() == ["cat", "dog"]


def test_text_of_two_bytes_without_a_mark_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.txt"
    path.write_bytes("cat\n".encode("utf-16-le"))
    with pytest.raises(DataError, match="holds a zero at character 1, as UTF-16 without a mark"):
        read_text(path, DataError)


def test_what_is_no_file_is_never_opened(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "nowhere").symlink_to("gone")
    (tmp_path / "itself").symlink_to("itself")
    os.mkfifo(tmp_path / "pipe")  # opening it would hang
    faults = {
        "folder": "is a folder, not a file",
        "nowhere": "a link that leads nowhere",
        "itself": "a link that leads nowhere",
        "pipe": "not a regular file",
        "gone": "no such file",
    }
    assert {name: fault_of(tmp_path / name) for name in faults} == faults
    for name, cause in faults.items():
        with pytest.raises(DataError, match=cause):
            read_bytes(tmp_path / name, DataError)


def test_a_file_that_may_not_be_read_says_why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "x.txt"
    path.touch()

    def refuse(self: Path) -> bytes:
        raise PermissionError(13, "Permission denied", str(self))

    monkeypatch.setattr(Path, "read_bytes", refuse)
    with pytest.raises(DataError, match=r"cannot be read \(Permission denied\)"):
        read_text(path, DataError)


READERS: dict[str, tuple[Callable[[Path], object], type[QuantpipeError]]] = {
    "checkpoint": (load_checkpoint, ArtifactError),
    "released checkpoint": (is_archive, ArtifactError),
    "scales of RepOptimizer": (load_rep_scales, ArtifactError),
    "graph": (read_onnx, ArtifactError),
    "engine": (read_header, ArtifactError),
    "scales": (load_scales, ArtifactError),
    "plan": (load_plan, ArtifactError),
    "ranking": (load_table, ArtifactError),
    "image": (read_image, DataError),
    "COCO file": (read_lists, DataError),
}


@pytest.mark.parametrize("name", READERS)
def test_what_one_reader_refuses_every_reader_refuses_in_the_same_words(
    tmp_path: Path, name: str
) -> None:
    read, error = READERS[name]
    (tmp_path / "folder").mkdir()
    (tmp_path / "link").symlink_to("gone")
    os.mkfifo(tmp_path / "pipe")  # opening it would hang
    for path in (tmp_path / place for place in ("folder", "link", "pipe", "nowhere")):
        with pytest.raises(error) as caught:
            read(path)
        assert caught.value.cause == fault_of(path)
        assert caught.value.path == path


def test_folders_are_refused_by_the_same_place(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "link").symlink_to("gone")
    faults = {
        "file": "is a file, not a folder",
        "link": "a link that leads nowhere",
        "nowhere": "no such folder",
    }
    for name, cause in faults.items():
        path = tmp_path / name
        with pytest.raises(DataError) as of_coco:
            read_coco(path, path, max_bad_images=0, strict=False)
        with pytest.raises(DataError) as of_yolo:
            read_yolo(path, "train", max_bad_images=0, strict=False, allow_unlabelled=False)
        assert of_coco.value.cause == of_yolo.value.cause == cause
