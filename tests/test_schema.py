from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest

from quantpipe.errors import ConfigurationError
from quantpipe.schema import Between, ExecutionOnly, build, convert, convert_given


@dataclass(frozen=True, kw_only=True)
class Inner:
    kind: Literal["inner"]
    factor: Annotated[float, Between(0, 1)]


@dataclass(frozen=True, kw_only=True)
class Other:
    kind: Literal["other"]
    root: Path

    def __post_init__(self) -> None:
        if self.root.name == "forbidden":
            raise ConfigurationError("is forbidden", path="root")


@dataclass(frozen=True, kw_only=True)
class Outer:
    count: Annotated[int, Between(1, 10)]
    percentile: Annotated[float, Between(0, 100, open_low=True)]
    name: str
    flag: bool
    sizes: Annotated[tuple[int, ...], Between(1, 64)]
    source: Inner | Other
    file: Path | None
    batch: Literal["dynamic"] | Annotated[int, Between(1, 8)]
    num_workers: Annotated[int, ExecutionOnly()]


VALUES: dict[str, Any] = {
    "count": 3,
    "percentile": 99.9,
    "name": "x",
    "flag": True,
    "sizes": [1, 32],
    "source": {"kind": "inner", "factor": 1},
    "file": None,
    "batch": "dynamic",
    "num_workers": 4,
}


def test_a_whole_configuration_is_built() -> None:
    built = build(Outer, VALUES, "step")
    assert built.sizes == (1, 32)
    assert built.source == Inner(kind="inner", factor=1.0)
    assert isinstance(built.source, Inner)
    assert isinstance(built.source.factor, float)


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"count": 0}, "step.count: 0 is not between 1 and 10"),
        ({"count": 2.5}, "step.count: 2.5 is not a whole number"),
        ({"count": True}, "step.count: True is not a whole number"),
        ({"count": "3"}, "step.count: '3' is not a whole number"),
        ({"percentile": 0}, "step.percentile: 0 is not above 0 and at most 100"),
        ({"percentile": 100.1}, "step.percentile: 100.1 is not above 0 and at most 100"),
        ({"percentile": float("nan")}, "step.percentile: nan is not a finite number"),
        ({"percentile": float("inf")}, "step.percentile: inf is not a finite number"),
        ({"percentile": True}, "step.percentile: True is not a finite number"),
        ({"percentile": None}, "step.percentile: None is not a finite number"),
        ({"name": 3}, "step.name: 3 is not a text"),
        ({"batch": 9}, "step.batch: 9 is not between 1 and 8"),
        ({"batch": "all"}, "step.batch: 'all' is not dynamic or a whole number"),
        ({"flag": "yes"}, "step.flag: 'yes' is not true or false"),
        ({"sizes": 3}, "step.sizes: 3 is not a list; write [a,b,c]"),
        ({"sizes": "12"}, "step.sizes: '12' is not a list; write [a,b,c]"),
        ({"sizes": [1, "a"]}, "step.sizes[1]: 'a' is not a whole number"),
        ({"sizes": [1, 65]}, "step.sizes: 65 is not between 1 and 64"),
        ({"file": 3}, "step.file: 3 is not a path"),
        ({"file": ""}, "step.file: '' is not a path"),
        ({"batch": "dynamics"}, "step.batch: 'dynamics' is not"),
        ({"batch": 9}, "step.batch: 9 is not"),
        ({"source": 1}, "step.source: 1 is not a group of settings"),
        ({"source": {"kind": "iner"}}, "step.source.kind: 'iner' is unknown; did you mean 'inner'"),
        ({"source": {"kind": ["inner"]}}, "step.source.kind: ['inner'] is unknown"),
        ({"source": {"kind": "inner"}}, "step.source.factor: is not set; give it a value"),
        (
            {"source": {"kind": "other", "root": "a/forbidden"}},
            "step.source.root: is forbidden",
        ),
        ({"counts": 1}, "step.counts: there is no such setting; did you mean 'count'?"),
    ],
)
def test_each_mistake_is_named(changes: dict[str, Any], line: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        build(Outer, VALUES | changes, "step")
    assert str(caught.value).startswith(line)


def test_root_keys_have_no_prefix() -> None:
    with pytest.raises(ConfigurationError, match=r"^count: 0 is"):
        build(Outer, VALUES | {"count": 0}, "")


def test_large_bounds_are_written_out() -> None:
    with pytest.raises(ConfigurationError, match="between 0 and 2147483647"):
        convert(Annotated[int, Between(0, 2**31 - 1)], -1, "seed")


def test_given_values_are_checked_while_others_are_missing() -> None:
    assert convert_given(Outer, {"count": 2}, "step") == {"count": 2}
    with pytest.raises(ConfigurationError, match=r"step\.count: 11 is not"):
        convert_given(Outer, {"count": 11}, "step")


def test_a_home_folder_is_expanded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/someone")
    assert convert(Path, "~/data", "x") == Path("/home/someone/data")
