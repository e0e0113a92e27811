"""That a sealed folder is verified as it was written, and that no change to it goes unnoticed."""

from __future__ import annotations

import errno
import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from quantpipe.core import entry
from quantpipe.core.entry import Built, key_of, raise_it, seal, verify
from quantpipe.files import sha256_bytes

IDENTITY = {"b": 1, "a": [1.5, "x", None]}
KEY = "305604ee83e8727e33b9019e359ffda01bf7e47daed975798b4ad8231b3ea8ba"
FILES = {"first.bin": b"\x00\x01" * 600, "folder/second.txt": b"some text\n", "empty": b""}

Change = Callable[[Path], object]


@pytest.fixture
def sealed(tmp_path: Path) -> Path:
    folder = tmp_path / "entry"
    for name, content in FILES.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    seal(folder, KEY, IDENTITY, Built(metrics={"score": 0.5}, seconds=1.23456))
    return folder


def manifest_of(folder: Path) -> dict[str, Any]:
    return dict(json.loads((folder / "manifest.json").read_text()))


def signed(folder: Path, manifest: dict[str, Any]) -> None:
    """Writes a manifest with the digest that belongs to it, computed as it is documented."""
    manifest.pop("sha256", None)
    text = json.dumps(manifest, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    digest = hashlib.sha256(text.encode()).hexdigest()
    (folder / "manifest.json").write_text(json.dumps(manifest | {"sha256": digest}))


def test_the_key_is_the_digest_of_the_canonical_text() -> None:
    assert key_of(IDENTITY) == sha256_bytes(b'{"a":[1.5,"x",null],"b":1}')
    assert key_of(IDENTITY) == KEY
    assert key_of({"a": [1.5, "x", None], "b": 1}) == KEY


def test_nan_names_nothing() -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        key_of({"a": float("nan")})


def test_what_was_sealed_is_what_is_verified(sealed: Path) -> None:
    fault, found = verify(sealed, KEY)
    assert fault == ""
    assert found is not None
    assert (found.key, found.folder) == (KEY, sealed)
    assert found.digests == {n: hashlib.sha256(c).hexdigest() for n, c in FILES.items()}
    assert (found.metrics, found.seconds) == ({"score": 0.5}, 1.235)


def test_the_manifest_names_every_file_and_itself(sealed: Path) -> None:
    manifest = manifest_of(sealed)
    assert manifest["identity"] == IDENTITY
    assert {name: file["size"] for name, file in manifest["files"].items()} == {
        name: len(content) for name, content in FILES.items()
    }
    digest = manifest["sha256"]
    signed(sealed, manifest)
    assert manifest_of(sealed)["sha256"] == digest
    assert verify(sealed, KEY)[0] == ""


def test_a_link_to_a_folder_is_a_file_that_is_listed(sealed: Path, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (sealed / "link").symlink_to(tmp_path / "elsewhere")
    assert verify(sealed, KEY) == ("file missing or too many: link", None)


def instead_of_a_file(make: Change) -> Change:
    def change(folder: Path) -> None:
        (folder / "empty").unlink()
        make(folder / "empty")

    return change


CHANGES: dict[str, tuple[Change, str]] = {
    "file gone": (lambda f: (f / "first.bin").unlink(), "file missing or too many: first.bin"),
    "file added": (lambda f: (f / "more").touch(), "file missing or too many: more"),
    "byte changed": (
        lambda f: (f / "folder/second.txt").write_bytes(b"some tent\n"),
        "digest of folder/second.txt differs",
    ),
    "file cut": (
        lambda f: (f / "first.bin").write_bytes(FILES["first.bin"][:-1]),
        "digest of first.bin differs",
    ),
    "no longer empty": (lambda f: (f / "empty").write_bytes(b"x"), "digest of empty differs"),
    "file is a folder": (
        instead_of_a_file(Path.mkdir),
        "file missing or too many: empty",
    ),
    "dangling link": (
        instead_of_a_file(lambda path: path.symlink_to("nowhere")),
        "No such file or directory: empty",
    ),
    "link in a circle": (
        instead_of_a_file(lambda path: path.symlink_to("empty")),
        "Too many levels of symbolic links: empty",
    ),
    "manifest gone": (
        lambda f: (f / "manifest.json").unlink(),
        "No such file or directory: manifest.json",
    ),
    "metrics changed": (
        lambda f: (f / "manifest.json").write_text(
            (f / "manifest.json").read_text().replace("0.5", "0.6")
        ),
        "its manifest was changed",
    ),
    "other format": (
        lambda f: signed(f, manifest_of(f) | {"format": 2}),
        "its manifest is of another entry",
    ),
    "other key": (
        lambda f: signed(f, manifest_of(f) | {"key": "0" * 64}),
        "its manifest is of another entry",
    ),
    "no manifest": (
        lambda f: (f / "manifest.json").write_text("{}"),
        "its manifest cannot be read",
    ),
    "a list": (lambda f: (f / "manifest.json").write_text("[]"), "its manifest cannot be read"),
    "cut short": (
        lambda f: (f / "manifest.json").write_bytes((f / "manifest.json").read_bytes()[:-9]),
        "its manifest cannot be read",
    ),
    "no text": (
        lambda f: (f / "manifest.json").write_bytes(b"\xff\xfe\x00"),
        "its manifest cannot be read",
    ),
    "nested too deep": (
        lambda f: (f / "manifest.json").write_text("[" * 100_000),
        "its manifest cannot be read",
    ),
    "files that are none": (
        lambda f: signed(f, manifest_of(f) | {"files": dict.fromkeys(FILES, 3)}),
        "its manifest cannot be read",
    ),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_change_is_told_by_what_was_changed(sealed: Path, change: str) -> None:
    apply, told = CHANGES[change]
    apply(sealed)
    assert verify(sealed, KEY) == (told, None)


def test_an_entry_under_another_key_is_another_entry(sealed: Path) -> None:
    assert verify(sealed, "0" * 64) == ("its manifest is of another entry", None)


@pytest.mark.parametrize("fault", [errno.EACCES, errno.EMFILE, errno.ENOMEM])
def test_a_fault_that_says_nothing_of_the_entry_is_no_damage(
    sealed: Path, monkeypatch: pytest.MonkeyPatch, fault: int
) -> None:
    def refuse(path: Path) -> str:
        raise OSError(fault, os.strerror(fault), str(path))

    monkeypatch.setattr(entry, "sha256_file", refuse)
    with pytest.raises(OSError, match=os.strerror(fault)):
        verify(sealed, KEY)


@pytest.mark.parametrize("fault", [errno.EIO, errno.EUCLEAN])
def test_a_disk_that_cannot_read_a_file_has_damaged_it(
    sealed: Path, monkeypatch: pytest.MonkeyPatch, fault: int
) -> None:
    def refuse(path: Path) -> str:
        raise OSError(fault, os.strerror(fault), str(path))

    monkeypatch.setattr(entry, "sha256_file", refuse)
    told, found = verify(sealed, KEY)
    assert told.startswith(os.strerror(fault))
    assert found is None


def test_a_folder_that_cannot_be_read_is_no_empty_one() -> None:
    with pytest.raises(PermissionError):
        raise_it(PermissionError(errno.EACCES, "denied"))


def test_the_manifest_is_written_after_all_files_are_on_the_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[str] = []
    real = os.fsync

    def fsync(descriptor: int) -> None:
        synced.append(Path(f"/proc/self/fd/{descriptor}").readlink().name)
        real(descriptor)

    for name in ("one", "two"):
        (tmp_path / name).write_text(name)
    monkeypatch.setattr(os, "fsync", fsync)
    seal(tmp_path, KEY, IDENTITY, Built(metrics={}, seconds=0.0))
    assert synced[:2] == ["one", "two"]
    assert any("manifest" in name for name in synced[2:])
