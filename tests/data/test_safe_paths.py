from __future__ import annotations

import os
from pathlib import Path

import pytest

from quantpipe.data.safe_paths import resolve_inside
from quantpipe.errors import DataError


@pytest.mark.parametrize(
    "name",
    ["../canary", "a/../../canary", "/etc/passwd", "..\\canary", "C:\\canary", "", "a\0b", 5, None],
)
def test_names_that_leave_are_refused(tmp_path: Path, name: object) -> None:
    with pytest.raises(DataError):
        resolve_inside(tmp_path.resolve(), name)


def test_a_link_out_is_refused_and_its_target_not_opened(tmp_path: Path) -> None:
    root = (tmp_path / "root").resolve()
    root.mkdir()
    os.mkfifo(tmp_path / "canary")  # opening it would hang
    (root / "link.jpg").symlink_to(tmp_path / "canary")
    (root / "folder").symlink_to(tmp_path)
    for name in ("link.jpg", "folder/canary"):
        with pytest.raises(DataError, match="link out"):
            resolve_inside(root, name)


def test_a_name_too_long_to_ask_for_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="too long"):
        resolve_inside(tmp_path.resolve(), "a" * 5000)


def test_names_inside_are_resolved(tmp_path: Path) -> None:
    root = tmp_path.resolve()
    (root / "a").mkdir()
    (root / "a" / "x.jpg").touch()
    (root / "y.jpg").symlink_to(root / "a" / "x.jpg")
    assert resolve_inside(root, "a/x.jpg") == root / "a" / "x.jpg"
    assert resolve_inside(root, "y.jpg") == root / "a" / "x.jpg"
