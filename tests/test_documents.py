"""A JSON document becomes a dataclass, or one line says which of its entries is wrong, and how."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest

from quantpipe.documents import read_as, record
from quantpipe.errors import ArtifactError
from quantpipe.schema import NamedIn

COLORS = {"red": 0xFF0000, "blue": 0x0000FF}


@dataclass(frozen=True, kw_only=True)
class Part:
    name: str
    kind: Literal["a", "b"]
    color: Annotated[int, NamedIn(COLORS)]
    size: float | None = None


@dataclass(frozen=True, kw_only=True)
class Whole:
    parts: tuple[Part, ...]
    limits: Mapping[str, tuple[float, ...]]
    notes: Mapping[str, str | int | float]


def document(**changes: Any) -> dict[str, Any]:
    part = {"name": "x", "kind": "a", "color": "red", "size": 1}
    return {"parts": [part], "limits": {"x": [1, 2.5]}, "notes": {"n": 3, "r": 3.0}} | changes


def test_entries_become_fields() -> None:
    whole = record(Whole, document())
    assert whole.parts == (Part(name="x", kind="a", color=0xFF0000, size=1.0),)
    assert whole.limits == {"x": (1.0, 2.5)}
    assert {name: type(note) for name, note in whole.notes.items()} == {"n": int, "r": float}


def test_what_has_a_default_may_be_missing() -> None:
    part = {"name": "x", "kind": "b", "color": "blue"}
    assert record(Whole, document(parts=[part])).parts[0].size is None


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"parts": 3}, "'parts': 3 is not a list"),
        ({"parts": [3]}, "'parts[0]': 3 is not an object"),
        ({"parts": [{"name": "x", "kind": "a"}]}, "'parts[0].color' is missing"),
        ({"limits": {"x": [True]}}, "'limits.x[0]': True is not a finite number"),
        ({"limits": [1]}, "'limits': [1] is not an object"),
        ({"more": 1}, "'more' is not known"),
        ({"notes": {"n": True}}, "'notes.n': True is not a text or a whole number or a finite num"),
        ({"notes": {"n": "x" * 99}, "limits": "y" * 99}, f"'limits': '{'y' * 56}... is not an obj"),
    ],
)
def test_the_entry_is_named(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ArtifactError) as caught:
        record(Whole, document(**changes))
    assert str(caught.value).startswith(message)


def test_a_name_is_of_the_table() -> None:
    part = {"name": "x", "kind": "a", "color": "green"}
    with pytest.raises(ArtifactError, match="'green' is not one of red, blue"):
        record(Whole, document(parts=[part]))


def test_a_document_that_is_no_object_is_refused() -> None:
    with pytest.raises(ArtifactError, match=r"^it: \[\] is not an object$"):
        record(Whole, [])


def test_a_file_is_named_with_what_to_do(tmp_path: Path) -> None:
    path = tmp_path / "whole.json"
    path.write_text(json.dumps({"format": "whole", "version": 1, **document(parts=3)}))
    with pytest.raises(ArtifactError) as caught:
        read_as(Whole, path, "whole", 1, hint="make it again")
    assert str(caught.value) == f"{path}: 'parts': 3 is not a list; make it again"
