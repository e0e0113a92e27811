from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from quantpipe.errors import ArtifactError
from quantpipe.quantization.sensitivity.released_table import (
    read_released_text,
    write_released_text,
)
from quantpipe.quantization.sensitivity.table import (
    SensitivityRow,
    SensitivityTable,
    load_table,
    save_table,
    sorted_table,
)


@pytest.fixture
def table() -> SensitivityTable:
    rows = [
        SensitivityRow(name=name, score=score, map50=score + 0.2, map=score, drop=0.5 - score)
        for name, score in (("a", 0.1 + 0.2), ("b", 1 / 3), ("c", 0.1 + 0.2), ("d", 0.4))
    ]
    return sorted_table(
        "map",
        rows,
        baseline=0.5,
        weights_digest="w",
        num_images=128,
        seconds=61.5,
        passes=30.7,
        reliability=1 / 7,
    )


def test_map_descends_and_ties_keep_their_order(table: SensitivityTable) -> None:
    assert [row.name for row in table.rows] == ["d", "b", "a", "c"]


def test_damage_ascends_and_ties_keep_their_order() -> None:
    rows = [SensitivityRow(name=n, score=s) for n, s in (("a", 2.0), ("b", 1.0), ("c", 2.0))]
    table = sorted_table("gradient", rows, baseline=None, weights_digest=None)
    assert [row.name for row in table.rows] == ["b", "a", "c"]


def test_map_ascends_where_operations_were_alone_in_float() -> None:
    rows = [SensitivityRow(name=n, score=s) for n, s in (("a", 0.4), ("b", 0.3), ("c", 0.5))]
    table = sorted_table("map", rows, baseline=0.3, weights_digest=None, direction="all_but")
    assert [row.name for row in table.rows] == ["b", "a", "c"]


def test_json_round_trip_keeps_all_digits(tmp_path: Path, table: SensitivityTable) -> None:
    save_table(tmp_path / "table.json", table)
    read = load_table(tmp_path / "table.json")
    assert read == table
    assert read.seconds == 61.5
    bare = sorted_table("gradient", table.rows, baseline=None, weights_digest=None)
    other = dataclasses.replace(bare, direction="all_but", rows=tuple(bare.rows))
    save_table(tmp_path / "other.json", other)
    assert load_table(tmp_path / "other.json") == other
    assert load_table(tmp_path / "other.json") != bare


def test_a_table_of_an_older_release_is_refused_with_what_to_do(
    tmp_path: Path, table: SensitivityTable
) -> None:
    path = tmp_path / "table.json"
    save_table(path, table)
    old = json.loads(path.read_text())
    for added in ("direction", "num_images", "seconds", "passes", "reliability"):
        del old[added]
    path.write_text(json.dumps({**old, "version": 1}))
    with pytest.raises(ArtifactError) as caught:
        load_table(path)
    assert str(caught.value) == (
        f"{path}: quantpipe-sensitivity version 1 is not known; rank the operations again"
    )


def test_operations_alone_in_float_are_not_published(
    tmp_path: Path, table: SensitivityTable
) -> None:
    with pytest.raises(ArtifactError, match="alone in INT8, not in float"):
        write_released_text(tmp_path / "t.txt", dataclasses.replace(table, direction="all_but"))


def test_published_text_round_trip(tmp_path: Path, table: SensitivityTable) -> None:
    write_released_text(tmp_path / "table.txt", table)
    lines = (tmp_path / "table.txt").read_text().splitlines()
    assert lines[0] == "d 0.6000000000000001 0.4"
    read = read_released_text(tmp_path / "table.txt")
    assert [(r.name, r.map50, r.map, r.score) for r in read.rows] == [
        (r.name, r.map50, r.map, r.score) for r in table.rows
    ]
    assert read.weights_digest is None
    read.require_weights("anything")


def test_a_foreign_text_in_any_order_is_sorted(tmp_path: Path) -> None:
    (tmp_path / "t.txt").write_text("x 0.5 0.30\n\ny 0.6 0.40\nz 0.6 0.40\n")
    assert [row.name for row in read_released_text(tmp_path / "t.txt").rows] == ["y", "z", "x"]


@pytest.mark.parametrize(
    "text", ["", "a 0.5", "a 0.5 x", "a 0.5 0.4 0.3", "a 0.5 nan", "a 0.5 0.4\na 0.5 0.4", "\xff"]
)
def test_bad_text_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "t.txt").write_bytes(text.encode("latin-1"))
    with pytest.raises(ArtifactError, match=r"t\.txt"):
        read_released_text(tmp_path / "t.txt")


def test_cheap_tables_hold_no_map_to_publish(tmp_path: Path) -> None:
    table = sorted_table(
        "output", [SensitivityRow(name="a", score=1.0)], baseline=None, weights_digest="w"
    )
    with pytest.raises(ArtifactError, match="no mAP"):
        write_released_text(tmp_path / "t.txt", table)


@pytest.mark.parametrize(
    "change",
    [
        {"rows": []},
        {"method": "guess"},
        {"direction": "both"},
        {"num_images": 1.5},
        {"reliability": "high"},
        {"version": 9},
        {"rows": [{"name": "a", "score": 0.1}, {"name": "b", "score": 0.2}]},
        {"rows": [{"name": "a", "score": 0.1}, {"name": "a", "score": 0.1}]},
        {"rows": [{"name": "a", "score": None}]},
        {"rows": [{"name": "a", "score": float("nan")}]},
        {"rows": ["a"]},
        {"baseline": "high"},
    ],
)
def test_damaged_json_is_refused(
    tmp_path: Path, table: SensitivityTable, change: dict[str, Any]
) -> None:
    path = tmp_path / "table.json"
    save_table(path, table)
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(ArtifactError, match=r"table\.json"):
        load_table(path)


def test_other_weights_are_refused_with_both_digests(table: SensitivityTable) -> None:
    table.require_weights("w")
    with pytest.raises(ArtifactError, match="weights w, not to x"):
        table.require_weights("x")


def test_a_mark_at_the_start_of_a_published_text_is_no_part_of_the_first_name(
    tmp_path: Path,
) -> None:
    (tmp_path / "t.txt").write_bytes("a 0.5 0.25\r\nb 0.75 0.5\r\n".encode("utf-8-sig"))
    rows = read_released_text(tmp_path / "t.txt").rows
    assert {row.name: row.map for row in rows} == {"a": 0.25, "b": 0.5}
