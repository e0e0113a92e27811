from __future__ import annotations

import errno
import os
import tempfile
from pathlib import Path
from typing import Any, NoReturn

import pytest

from quantpipe.cli.run import _read_only
from quantpipe.errors import MachineError


@pytest.fixture
def read_only_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(**named: Any) -> NoReturn:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr(tempfile, "TemporaryFile", refuse)


def test_a_cache_to_write_in_is_no_news(tmp_path: Path) -> None:
    assert _read_only(tmp_path / "cache") is None
    assert list((tmp_path / "cache").iterdir()) == []


@pytest.mark.usefixtures("read_only_disk")
def test_a_cache_that_can_only_be_read_serves_and_is_told(tmp_path: Path) -> None:
    (tmp_path / "objects").mkdir()
    told = _read_only(tmp_path)
    assert told == (
        f"{tmp_path} can only be read (Read-only file system): "
        "what it holds is used, nothing is added"
    )


@pytest.mark.usefixtures("read_only_disk")
def test_a_folder_that_is_no_cache_and_cannot_be_one_is_refused(tmp_path: Path) -> None:
    with pytest.raises(MachineError, match="cache_dir=") as caught:
        _read_only(tmp_path)
    assert caught.value.exit_code == 5
