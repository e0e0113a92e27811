"""What is a family's alone stands in its folder: no other file names a family or a part of one."""

from __future__ import annotations

import re
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import pytest

import quantpipe
from quantpipe.detector.families import FAMILIES
from quantpipe.schema import field_types

SOURCES = Path(quantpipe.__file__).parent
FAMILIES_FOLDER = SOURCES / "detector" / "families"
CONF = SOURCES.parents[1] / "conf"
# Names of a family, of its forms, of its levels and of its layers.
OWN = re.compile(
    r"yolov6|\bSTRIDES\b|repvgg|RepVgg|linear_add|ERBlock|sppf|rbr_|proj_conv|"
    r"(?:cls|reg)_(?:preds|convs)|[\"'.]detect\.|\bstrides=|\breg_max\b"
)
ALLOWED = {
    # The package whose pickled classes are read as inert records; nothing of it is imported.
    ("detector/released/unpickler.py", "yolov6"),
}


def test_no_file_outside_the_families_names_a_part_of_one() -> None:
    found = {
        (str(path.relative_to(SOURCES)), match[0])
        for path in SOURCES.rglob("*.py")
        if FAMILIES_FOLDER not in path.parents
        for match in OWN.finditer(path.read_text())
    }
    assert found == ALLOWED


def test_the_table_and_the_light_halves_import_nothing_heavy() -> None:
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            "import sys, quantpipe.detector.families, quantpipe.settings.model;"
            "print(sorted({'torch', 'onnx', 'cv2', 'scipy'} & set(sys.modules)))",
        ],
        capture_output=True,
        text=True,
        check=True,
        env={"PYTHONPATH": str(SOURCES.parent)},
    )
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("name", FAMILIES)
def test_a_family_is_what_the_table_says(name: str) -> None:
    family = FAMILIES[name]
    assert family.name == name
    assert {"family", "name", "image_size"} <= {field.name for field in fields(family.settings)}
    assert field_types(family.settings)["family"].__args__ == (name,)
    implementation = family.implementation()
    assert (implementation.training is None) == (not family.forms)


def test_every_shipped_model_is_of_a_family_of_the_table() -> None:
    for path in sorted((CONF / "model").glob("*.yaml")):
        named = re.findall(r"^family: (\w+)$", path.read_text(), re.MULTILINE)
        assert set(named) <= set(FAMILIES), path
        assert named or "defaults:" in path.read_text(), path
