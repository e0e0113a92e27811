"""That a configuration is named by every value that changes a result, and by no other."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from quantpipe.core.entry import key_of
from quantpipe.files import canonical_json
from quantpipe.identity import identity
from quantpipe.schema import Between, ExecutionOnly, build


@dataclass(frozen=True, kw_only=True)
class Inner:
    kind: Literal["inner"]
    factor: Annotated[float, Between(0, 1)]


@dataclass(frozen=True, kw_only=True)
class Outer:
    count: int
    percentile: float
    name: str
    flag: bool
    sizes: tuple[int, ...]
    source: Inner
    parts: tuple[Inner, ...]
    file: Path | None
    batch: Literal["dynamic"] | int
    num_workers: Annotated[int, ExecutionOnly()]


VALUES: dict[str, Any] = {
    "count": 3,
    "percentile": 99.9,
    "name": "x",
    "flag": True,
    "sizes": [1, 32],
    "source": {"kind": "inner", "factor": 1},
    "parts": [{"kind": "inner", "factor": 0}],
    "file": None,
    "batch": "dynamic",
    "num_workers": 4,
}


def test_identity_leaves_out_paths_and_what_only_changes_execution() -> None:
    named = identity(build(Outer, VALUES | {"file": "/data/a"}, "step"))
    assert canonical_json(named) == (
        '{"batch":"dynamic","count":3,"flag":true,"name":"x",'
        '"parts":[{"factor":0.0,"kind":"inner"}],"percentile":99.9,'
        '"sizes":[1,32],"source":{"factor":1.0,"kind":"inner"}}'
    )
    elsewhere = VALUES | {"file": "/data/b", "num_workers": 0}
    assert identity(build(Outer, elsewhere, "step")) == named


def test_every_other_value_is_in_the_identity() -> None:
    key = key_of(identity(build(Outer, VALUES, "step")))
    changes = {
        "count": 4,
        "percentile": 99.8,
        "name": "y",
        "flag": False,
        "sizes": [1],
        "source": {"kind": "inner", "factor": 0.5},
        "parts": [{"kind": "inner", "factor": 0.5}],
        "batch": 1,
    }
    keys = {key_of(identity(build(Outer, VALUES | {k: v}, "step"))) for k, v in changes.items()}
    assert len(keys | {key}) == len(changes) + 1


def test_a_whole_number_and_its_float_name_the_same_result() -> None:
    as_int = identity(build(Outer, VALUES | {"percentile": 99}, "step"))
    as_float = identity(build(Outer, VALUES | {"percentile": 99.0}, "step"))
    assert canonical_json(as_int) == canonical_json(as_float)
