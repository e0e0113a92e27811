"""What ``data.yaml`` and its kin say is read as it stands there: names are text, always."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from quantpipe.data.faults import Findings
from quantpipe.data.yolo_description import class_names, num_keypoint_values, read_description
from quantpipe.errors import DataError


def names_in(root: Path, text: str, *, strict: bool = False) -> tuple[tuple[str, ...], Any]:
    (root / "data.yaml").write_text(text)
    findings = Findings(root, strict=strict, max_bad_images=0)
    return class_names(None, read_description(root), root, findings), findings.counts


@pytest.mark.parametrize(
    "written", ["on", "off", "yes", "no", "y", "010", "12:30", "1e3", "0x10", "null", "~", "3.10"]
)
@pytest.mark.parametrize("form", ["[{}, cat]", "\n- {}\n- cat", "{{0: {}, 1: cat}}"])
def test_names_are_the_text_that_stands_there(tmp_path: Path, written: str, form: str) -> None:
    names, counts = names_in(tmp_path, f"names: {form.format(written)}\n", strict=True)
    assert names == (written, "cat")
    assert not +counts


@pytest.mark.parametrize(
    "mapping", ["{0: cat, 1: dog}", "{'0': cat, '1': dog}", "\n  01: dog\n  00: cat"]
)
def test_keys_count_from_0_whatever_they_are_written_like(tmp_path: Path, mapping: str) -> None:
    assert names_in(tmp_path, f"names: {mapping}\nnc: 2\n")[0] == ("cat", "dog")


def test_a_file_may_hold_the_names(tmp_path: Path) -> None:
    (tmp_path / "coco.names").write_text("\ufeffcat\nhot dog\n\n", encoding="utf-8")
    assert names_in(tmp_path, "names: coco.names\n")[0] == ("cat", "hot dog")
    with pytest.raises(DataError, match="'names' is 'cat', neither a list nor a file"):
        names_in(tmp_path, "names: cat\n")


def test_names_that_are_there_twice_are_told_apart(tmp_path: Path) -> None:
    text = "names: [cell, platelet, cell, 'cell (2)']\n"
    names, counts = names_in(tmp_path, text)
    assert names == ("cell", "platelet", "cell (2) (2)", "cell (2)")
    assert counts["renamed_classes"] == 1
    with pytest.raises(DataError, match="classes 0 and 2 are both called 'cell'"):
        names_in(tmp_path, text, strict=True)


@pytest.mark.parametrize(
    ("shape", "num_values"), [("[17, 3]", 51), ("[5, 2]", 10), ("null", 0), ("", 0)]
)
def test_values_of_key_points(tmp_path: Path, shape: str, num_values: int) -> None:
    (tmp_path / "data.yaml").write_text(f"names: [person]\nkpt_shape: {shape}\n")
    assert num_keypoint_values(read_description(tmp_path), tmp_path) == num_values


def test_a_description_that_cannot_be_read_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "data.yaml").write_text("names: [a]")

    def refuse(self: Path) -> bytes:
        raise PermissionError(13, "Permission denied", str(self))

    monkeypatch.setattr(Path, "read_bytes", refuse)
    with pytest.raises(DataError, match=r"data\.yaml: cannot be read \(Permission denied\)"):
        read_description(tmp_path)
