"""Scale caches, sensitivity tables and plans with every field wrong in turn (rows 29, 31)."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from faults.cases import Case, Place, Prepared

from quantpipe.errors import ArtifactError
from quantpipe.quantization.number_format import INT8
from quantpipe.quantization.precision_plan import (
    OperationReason,
    PlanLatency,
    PlanPoint,
    PrecisionPlan,
    load_plan,
)
from quantpipe.quantization.scale_cache import ScaleCache, TensorScale, load_scales
from quantpipe.quantization.sensitivity.released_table import read_released_text
from quantpipe.quantization.sensitivity.table import (
    SensitivityRow,
    load_table,
    save_table,
    sorted_table,
)

Path_ = tuple[str | int, ...]

# Fields that may be left out: None says so.
_OPTIONAL = frozenset(
    {"axis", "baseline", "weights_digest", "num_images", "seconds", "passes", "reliability"}
    | {"standard_error", "map50", "map", "drop", "predicted_drop", "int8_ms", "float_ms"}
    | {"measured", "latency", "why", "agreement"}
)
# Preprocessing is any text or number by any name, and not every operation is corrected.
_FREE = ("preprocessing",)
_ANY_NAMES = ("preprocessing", "bias_corrections")


@dataclass(frozen=True)
class _Document:
    name: str
    content: dict[str, Any]
    load: Callable[[Path], object]


def _scales() -> _Document:
    scales = [
        TensorScale(
            name="stem.input",
            kind="activation",
            axis=None,
            amax=(1.5,),
            number_format=INT8,
            method="max",
        ),
        TensorScale(
            name="stem.weight",
            kind="weight",
            axis=0,
            amax=(0.5, 0.25),
            number_format=INT8,
            method="max",
        ),
    ]
    cache = ScaleCache(
        scales={scale.name: scale for scale in scales},
        bias_corrections={"stem": (0.1, -0.1)},
        weights_digest="w",
        data_digest="d",
        preprocessing={"image_size": 64},
    )
    return _Document("scales.json", cache.to_document(), load_scales)


def _plan() -> _Document:
    point = PlanPoint(num_float=1, map=0.5, drop=0.1, low=0.0, high=0.2, agreement=0.9)
    plan = PrecisionPlan(
        operations={"stem": "int8", "head": "float"},
        reason="by hand",
        why={
            "stem": OperationReason(
                rank=0, score=0.5, predicted_drop=0.1, int8_ms=1.0, float_ms=2.0
            )
        },
        predicted_drop=0.1,
        measured=point,
        latency=PlanLatency(
            engine="openvino",
            batch_size=1,
            predicted=1.0,
            measured=1.0,
            all_int8=1.0,
            all_float=2.0,
        ),
        curve=(point,),
    )
    return _Document("plan.json", plan.to_document(), load_plan)


def _table(folder: Path) -> _Document:
    rows = [
        SensitivityRow(name=name, score=score, standard_error=0.1, map50=0.5, map=0.25, drop=0.125)
        for name, score in (("stem", 0.5), ("head", 0.25))
    ]
    table = sorted_table(
        "map",
        rows,
        baseline=0.5,
        weights_digest="w",
        num_images=4,
        seconds=1.0,
        passes=2.0,
        reliability=0.5,
    )
    save_table(folder / "table.json", table)
    content = json.loads((folder / "table.json").read_bytes())
    del content["document_sha256"]  # or no check but that of the digest would be reached
    (folder / "table.json").unlink()
    return _Document("table.json", content, load_table)


def document_cases(folder: Path) -> Iterator[Case]:
    """Every field of every kind of document, wrong in every way; and whole files that are none."""
    for document in (_scales(), _plan(), _table(folder)):
        yield _case(document, "as it should be", json.dumps(document.content), sound=True)
        for where, value in _leaves(document.content, ()):
            for wrong in _wrong_values(where, value):
                text = json.dumps(_with(document.content, where, wrong))
                place = ".".join(map(str, where))
                yield _case(document, f"{place} = {json.dumps(wrong)[:40]}", text)
            if _is_required(where):
                text = json.dumps(_without(document.content, where))
                yield _case(document, f"without {'.'.join(map(str, where))}", text)
        for name, text in _FILES.items():
            yield _case(document, name, text)
        whole = json.dumps(document.content)
        for part in (1, 3, 7):
            yield _case(document, f"cut at {part} eighths", whole[: len(whole) * part // 8])
    yield from _published_texts()


_FILES = {
    "empty": "",
    "a list": "[]",
    "null": "null",
    "deep list": "[" * 100_000,
    "deep object": '{"a":' * 100_000,
    "not UTF-8": "\udcff\udcfe",
    "a number of many digits": '{"format": ' + "9" * 100_000 + "}",
    "an interpolation": '{"format": "${oc.env:HOME}"}',
    "a target": '{"_target_": "os.system", "command": "touch canary"}',
}


def _is_required(where: Path_) -> bool:
    by_name = len(where) > 1 and where[0] in _ANY_NAMES
    return isinstance(where[-1], str) and where[-1] not in _OPTIONAL and not by_name


def _leaves(value: Any, where: Path_) -> Iterator[tuple[Path_, Any]]:
    """Every mapping's and list's items, the containers themselves included."""
    if where:
        yield where, value
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from _leaves(inner, (*where, key))
    elif isinstance(value, list) and value:
        yield from _leaves(value[0], (*where, 0))


def _wrong_values(where: Path_, value: Any) -> Iterator[Any]:
    """What cannot stand there, by the type of what does."""
    if where[0] in _FREE and len(where) > 1:
        yield from ([], {}, None)
        return
    if value is not None and where[-1] not in _OPTIONAL:
        yield None
    yield from ([1, [2]], {"x": 1}) if not isinstance(value, list | dict) else ()
    if isinstance(value, str):
        yield from (1, 0.5, True)
    elif isinstance(value, int | float):
        yield from ("1", True, float("nan"), float("inf"), float("-inf"))
        if isinstance(value, int) and where[-1] not in ("rank", "score"):
            yield 1.5
    elif isinstance(value, list):
        yield from ("x", 1, {"x": 1}, [None], ["x"])
    elif isinstance(value, dict):
        yield from ("x", 1, [1])


def _with(content: Any, where: Path_, value: Any) -> Any:
    changed = deepcopy(content)
    node = changed
    for key in where[:-1]:
        node = node[key]
    node[where[-1]] = value
    return changed


def _without(content: Any, where: Path_) -> Any:
    changed = deepcopy(content)
    node = changed
    for key in where[:-1]:
        node = node[key]
    del node[where[-1]]
    return changed


def _case(document: _Document, name: str, text: str, *, sound: bool = False) -> Case:
    def prepare(at: Place) -> Prepared:
        path = at.root / document.name
        path.write_bytes(text.encode("utf-8", "surrogateescape"))
        return lambda: document.load(path)

    return Case(
        row=29 if "target" in name or "interpolation" in name else 31,
        name=f"{document.name}: {name}",
        prepare=prepare,
        error=None if sound else ArtifactError,
        says=(document.name,),
    )


def _published_texts() -> Iterator[Case]:
    for name, text in {
        "a word": "stem 0.5 high\n",
        "too few": "stem 0.5\n",
        "too many": "stem 0.5 0.25 0.1\n",
        "NaN": "stem 0.5 nan\n",
        "infinite": "stem 0.5 inf\n",
        "twice": "stem 0.5 0.25\nstem 0.5 0.25\n",
        "empty": "",
        "not UTF-8": "\udcff 0.5 0.25\n",
        "a picture": "\x89PNG\r\n\x1a\n\x00\x00\n",
        "a long line": "stem " + "9" * 1_000_000,
        "control characters": "\x1b[2Jstem high high\n",
    }.items():

        def prepare(at: Place, text: str = text) -> Prepared:
            path = at.root / "table.txt"
            path.write_bytes(text.encode("utf-8", "surrogateescape"))
            return lambda: read_released_text(path)

        yield Case(
            row=31,
            name=f"published text: {name}",
            prepare=prepare,
            error=ArtifactError,
            says=("table.txt",),
        )
