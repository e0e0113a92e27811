"""Text is read as its writer meant it whatever marks it begins with, and refused by its byte."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from quantpipe.errors import ArtifactError, DataError
from quantpipe.given_files import fault_of, read_bytes, read_text


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
