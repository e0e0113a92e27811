"""The figure of the architecture shows the layers that the import contract holds, row by row."""

from __future__ import annotations

import tomllib
from itertools import groupby
from pathlib import Path
from xml.etree import ElementTree

_ROOT = Path(__file__).parents[1]
_SVG = "{http://www.w3.org/2000/svg}"
_TITLE = "Who may import whom"


def test_the_figure_has_a_row_for_every_layer_of_the_contract() -> None:
    contracts = tomllib.loads((_ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]
    (contract,) = [c for c in contracts["contracts"] if c["name"] == _TITLE]
    layers = [
        [name.strip().removeprefix("quantpipe.") for name in layer.split("|")]
        for layer in contract["layers"]
    ]
    assert layers.pop(0) == ["__main__"]
    assert _rows() == layers


def _rows() -> list[list[str]]:
    """The names of the boxes below the title; what follows a colon explains."""
    texts = list(ElementTree.parse(_ROOT / "docs" / "architecture.svg").iter(f"{_SVG}text"))
    titled = next(place for place, text in enumerate(texts) if _TITLE in (text.text or ""))
    rows = groupby(texts[titled + 1 :], key=lambda text: text.get("y"))
    return [[str(text.text).partition(":")[0] for text in row] for _, row in rows]
