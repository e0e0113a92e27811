from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from quantpipe.engines.contract import Platform
from quantpipe.engines.tensorrt.timing_cache import TimingCache

HERE = Platform(library="tensorrt 11.4", hardware="NVIDIA T4")


@pytest.fixture
def notes() -> list[str]:
    return []


@pytest.fixture
def cache(tmp_path: Path, notes: list[str]) -> TimingCache:
    return TimingCache(folder=tmp_path / "timings", warn=notes.append)


def test_it_is_kept_by_library_and_hardware(cache: TimingCache, notes: list[str]) -> None:
    assert cache.load(HERE) == b""
    cache.save(HERE, b"measured")
    assert cache.load(HERE) == b"measured"
    assert cache.load(replace(HERE, hardware="NVIDIA L4")) == b""
    assert cache.load(replace(HERE, library="tensorrt 10.3")) == b""
    assert notes == []


@pytest.mark.parametrize(
    "damage", [lambda c: c[:-1], lambda c: c + b"x", lambda c: b"", lambda c: c[:9] + b"?" + c[10:]]
)
def test_a_damaged_one_is_ignored_with_a_warning(
    cache: TimingCache, notes: list[str], damage: Any
) -> None:
    cache.save(HERE, b"measured")
    (path,) = cache.folder.iterdir()
    path.write_bytes(damage(path.read_bytes()))
    assert cache.load(HERE) == b""
    assert len(notes) == 1
    assert notes[0] == f"{path}: damaged, ignored; kernels are timed anew"


def test_what_cannot_be_read_or_written_does_not_fail_a_build(
    tmp_path: Path, notes: list[str]
) -> None:
    (tmp_path / "file").write_text("")
    cache = TimingCache(folder=tmp_path / "file", warn=notes.append)
    assert cache.load(HERE) == b""
    cache.save(HERE, b"measured")
    assert len(notes) == 2
