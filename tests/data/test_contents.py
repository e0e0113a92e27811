"""A file is read once: its digest and its damage are remembered until it changes."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import pytest

from quantpipe.data.contents import Content, read_contents
from quantpipe.errors import DataError
from quantpipe.files import sha256_bytes

NAMES = [f"{number:02}.jpg" for number in range(6)]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Files that no longer count as just changed."""
    made = tmp_path / "images"
    made.mkdir()
    for name in NAMES:
        (made / name).write_text(f"content of {name}")
    time.sleep(0.06)
    return made


def look(path: Path, content: bytes) -> str:
    return f"{path.name} broken" if content.startswith(b"bad") else ""


def read(folder: Path, memo: Path | None) -> list[Content]:
    return read_contents([folder / name for name in NAMES], folder, memo, look)


def digests(folder: Path, memo: Path | None) -> list[str]:
    return [content.digest for content in read(folder, memo)]


def change(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(bytes(content))


def test_each_file_is_named_by_its_bytes_and_looked_at(folder: Path) -> None:
    (folder / NAMES[2]).write_bytes(b"bad one")
    found = read(folder, None)
    assert [content.digest for content in found] == [
        sha256_bytes((folder / name).read_bytes()) for name in NAMES
    ]
    assert [content.damage for content in found] == ["", "", "02.jpg broken", "", "", ""]
    paths = [folder / name for name in NAMES]
    assert not any(content.damage for content in read_contents(paths, folder, None))


def test_a_memo_saves_reading(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    memo = tmp_path / "memo.json"
    (folder / NAMES[2]).write_bytes(b"bad one")
    time.sleep(0.06)
    expected = read(folder, memo)
    opened: list[str] = []
    plain = Path.read_bytes

    def spy(path: Path) -> bytes:
        opened.append(path.name)
        return plain(path)

    monkeypatch.setattr(Path, "read_bytes", spy)
    assert read(folder, memo) == expected
    assert opened == ["memo.json"]
    before = (folder / NAMES[3]).stat()
    change(folder / NAMES[3])
    os.utime(folder / NAMES[3], ns=(before.st_atime_ns, before.st_mtime_ns))
    opened.clear()
    changed = read(folder, memo)
    assert opened == ["memo.json", NAMES[3]]  # the same size and the same modification time
    differ = [ours != theirs for ours, theirs in zip(changed, expected, strict=True)]
    assert differ == [False, False, False, True, False, False]


def test_a_file_that_just_changed_is_not_remembered(folder: Path, tmp_path: Path) -> None:
    memo = tmp_path / "memo.json"
    ahead = time.time_ns() + 10**10  # as after the clock went back
    os.utime(folder / NAMES[1], ns=(ahead, ahead))
    read(folder, memo)
    assert sorted(json.loads(memo.read_text())["images"]) == [NAMES[0], *NAMES[2:]]


@pytest.mark.parametrize("text", ["", "[1]", '{"00.jpg": 5}', '{"00.jpg": ["x", "y", "z"]}'])
def test_a_damaged_memo_only_costs_time(folder: Path, tmp_path: Path, text: str) -> None:
    memo = tmp_path / "memo.json"
    memo.write_text(text)
    assert read(folder, memo) == read(folder, None)


def test_a_digit_changed_in_a_memo_names_no_other_content(folder: Path, tmp_path: Path) -> None:
    memo = tmp_path / "memo.json"
    expected = digests(folder, memo)
    whole = memo.read_bytes()
    for position in range(0, len(whole), 23):
        changed = bytearray(whole)
        changed[position] ^= 1
        memo.write_bytes(changed)
        assert digests(folder, memo) == expected


def test_a_memo_that_cannot_be_written_costs_no_more_than_time(
    folder: Path, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("in the way")
    assert digests(folder, tmp_path / "file" / "memo.json") == digests(folder, None)


def test_a_file_that_is_gone_is_named(folder: Path) -> None:
    (folder / NAMES[4]).unlink()
    with pytest.raises(DataError, match="cannot be read") as caught:
        read(folder, None)
    assert caught.value.path == folder / NAMES[4]
