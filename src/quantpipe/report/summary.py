"""``summary.json``: what a run measured, as one checked structure."""

from __future__ import annotations

import json
import math
import re
import types
import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypedDict, Union

from quantpipe.engines.benchmark import Latency
from quantpipe.engines.contract import Fallback
from quantpipe.errors import ArtifactError
from quantpipe.files import write_json

BASELINE = "fp32"
HALF = "half"

_BATCH_NAME = re.compile(r"b[1-9][0-9]{0,8}")


class RunInfo(TypedDict):
    """What ran, on what, and from what."""

    pipeline: str
    command: str
    started: str  # ISO 8601, with the zone
    seconds: float
    seed: int
    device: str
    hardware: str
    model: str
    data: str
    versions: dict[str, str]  # of quantpipe and the libraries it used


class Parity(TypedDict):
    """How far a variant on its engine is from the network that it came from.

    ``reference`` is ``float`` or ``fake-quantized``; differences of boxes are in pixels; agreement
    is mAP against what the network is confident of. None where there was nothing to compare.
    """

    reference: str
    num_images: int
    max_abs: float | None
    mean_abs: float | None
    box_max_abs: float | None
    box_mean_abs: float | None
    score_max_abs: float | None
    score_mean_abs: float | None
    agreement: float | None
    map_delta: float | None


class Variant(TypedDict):
    """One way to deploy the detector. Average precision is a fraction of one.

    What was not measured is None or absent; ``skipped`` gives the reason where nothing was.
    The keys of ``latency_ms`` and ``fps`` are ``b<batch size>``.
    """

    name: str
    precision: str
    engine: str
    image_size: int | str
    map: float | None
    map50: float | None
    drop_vs_fp32: float | None
    agreement: float | None  # mAP against the confident detections of the fp32 variant
    latency_ms: dict[str, Latency]
    fps: dict[str, float]
    size_mb: float | None
    float_layers: int | None
    fallbacks: list[Fallback]
    parity: Parity | None
    skipped: str | None


class StageTime(TypedDict):
    """How long a step took in this run; a reused one took the time of its check and copy."""

    step: str
    seconds: float
    reused: bool


class Summary(TypedDict):
    """The whole of ``summary.json``."""

    run: RunInfo
    variants: list[Variant]
    stages: list[StageTime]


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """What was measured of one variant.

    ``latency`` and ``fps`` are by batch size. Where ``fps`` lacks a batch size that ``latency``
    has, it follows from the median time of a call.
    """

    name: str
    precision: str
    engine: str
    image_size: int | str
    map: float | None = None
    map50: float | None = None
    agreement: float | None = None
    latency: Mapping[int, Latency] = field(default_factory=dict)
    fps: Mapping[int, float] = field(default_factory=dict)
    size_mb: float | None = None
    float_layers: int | None = None
    fallbacks: Sequence[Fallback] = ()
    parity: Parity | None = None
    skipped: str | None = None


def build_summary(
    run: RunInfo, measurements: Sequence[Measurement], stages: Sequence[StageTime]
) -> Summary:
    """Returns the summary of a run, checked.

    The drop of a variant is against the ``fp32`` one on its engine at its input size, or where
    there is none, against the first ``fp32`` there is.

    Raises:
        ArtifactError: A value is NaN or infinite, or of the wrong type.
    """
    variants = [_variant(measurement, measurements) for measurement in measurements]
    return validate_summary({"run": run, "variants": variants, "stages": list(stages)})


def validate_summary(value: object, path: Path | None = None) -> Summary:
    """Returns ``value`` as a summary.

    Raises:
        ArtifactError: It is not one; names the place (``variants[2].map``) and ``path``.
    """
    _check(value, Summary, "", path)
    summary = typing.cast(Summary, value)
    for index, variant in enumerate(summary["variants"]):
        for name in (*variant["fps"], *variant["latency_ms"]):
            if _BATCH_NAME.fullmatch(name) is None:
                raise ArtifactError(f"variants[{index}] has a batch size named {name!r}", path=path)
    return summary


def load_summary(path: Path) -> Summary:
    """Reads ``summary.json``.

    Raises:
        ArtifactError: The file cannot be read, is not JSON or is not a summary.
    """
    try:
        value = json.loads(path.read_bytes())
    except OSError as error:
        raise ArtifactError(f"cannot be read: {error.strerror}", path=path) from error
    except (ValueError, RecursionError) as error:
        raise ArtifactError(f"not JSON ({error})", path=path) from error
    return validate_summary(value, path)


def save_summary(path: Path, summary: Summary) -> None:
    """Writes ``summary.json`` atomically."""
    write_json(path, validate_summary(summary))


def speed_up(summary: Summary, variant: Variant, batch: str) -> float | None:
    """Returns images a second against the ``half`` variant on the same engine and input size."""
    for other in summary["variants"]:
        if other["name"] == HALF and _platform(other) == _platform(variant):
            mine, theirs = variant["fps"].get(batch), other["fps"].get(batch)
            return mine / theirs if mine and theirs else None
    return None


def slower_than_half(summary: Summary) -> list[str]:
    """Returns a line for every INT8 variant that is no faster than half precision, with its cause.

    The cause is what runs in float; where nothing does, INT8 itself does not pay there.
    """
    lines = []
    for variant in summary["variants"]:
        rates = {batch: speed_up(summary, variant, batch) for batch in variant["fps"]}
        slow = [f"{rate:.2f}x at {batch}" for batch, rate in rates.items() if rate and rate <= 1]
        if variant["precision"] == "int8" and slow:
            where = " and ".join(slow)
            lines.append(f"{variant['name']} is not faster than half: {where}; {_cause(variant)}")
    return lines


def _cause(variant: Variant) -> str:
    reasons: dict[str, list[str]] = {}
    for fallback in variant["fallbacks"]:
        reasons.setdefault(fallback["reason"], []).append(fallback["layer"])
    if not reasons:
        return f"{variant['float_layers'] or 'no'} layers run in float"
    parts = [f"{', '.join(layers)} ({reason})" for reason, layers in reasons.items()]
    return f"in float: {'; '.join(parts)}"


def batch_names(summary: Summary) -> list[str]:
    """Returns the batch sizes that any variant ran at, ``b1`` before ``b32``."""
    names = {name for variant in summary["variants"] for name in variant["fps"]}
    return sorted(names, key=lambda name: int(name[1:]))


def _platform(variant: Variant) -> tuple[str, int | str]:
    return variant["engine"], variant["image_size"]


def _variant(measurement: Measurement, measurements: Sequence[Measurement]) -> Variant:
    fps = {size: 1000 * size / latency["p50"] for size, latency in measurement.latency.items()}
    fps.update(measurement.fps)
    return Variant(
        name=measurement.name,
        precision=measurement.precision,
        engine=measurement.engine,
        image_size=measurement.image_size,
        map=measurement.map,
        map50=measurement.map50,
        drop_vs_fp32=_drop(measurement, measurements),
        agreement=measurement.agreement,
        latency_ms={f"b{size}": measurement.latency[size] for size in sorted(measurement.latency)},
        fps={f"b{size}": fps[size] for size in sorted(fps)},
        size_mb=measurement.size_mb,
        float_layers=measurement.float_layers,
        fallbacks=list(measurement.fallbacks),
        parity=measurement.parity,
        skipped=measurement.skipped,
    )


def _drop(measurement: Measurement, measurements: Sequence[Measurement]) -> float | None:
    baselines = [m for m in measurements if m.name == BASELINE and m.map is not None]
    place = (measurement.engine, measurement.image_size)
    nearest = [m for m in baselines if (m.engine, m.image_size) == place] or baselines
    if not nearest or nearest[0].map is None or measurement.map is None:
        return None
    return nearest[0].map - measurement.map


def _check(value: object, expected: Any, where: str, path: Path | None) -> None:
    """Checks ``value`` against a type made of TypedDict, list, dict, unions and JSON's scalars."""
    origin = typing.get_origin(expected)
    if typing.is_typeddict(expected):
        _check_record(value, typing.get_type_hints(expected), where, path)
    elif origin in (Union, types.UnionType):
        if value is not None:
            members = [m for m in typing.get_args(expected) if m is not type(None)]
            fitting = [m for m in members if m is type(value)]
            _check(value, (fitting or members)[0], where, path)
    elif origin is list:
        (member,) = typing.get_args(expected)
        for index, item in enumerate(_instance(value, list, where, path)):
            _check(item, member, f"{where}[{index}]", path)
    elif origin is dict:
        member = typing.get_args(expected)[1]
        for key, item in _instance(value, dict, where, path).items():
            _check(item, member, f"{where}.{key}", path)
    else:
        _check_scalar(value, expected, where, path)


def _check_record(value: object, fields: Mapping[str, Any], where: str, path: Path | None) -> None:
    record = _instance(value, dict, where, path)
    if record.keys() != fields.keys():
        odd = sorted(map(str, record.keys() ^ fields.keys()))
        raise ArtifactError(
            f"{where or 'summary'} misses or does not know {', '.join(odd)}",
            path=path,
            hint="it was written by another version; run again to write it anew",
        )
    for name, expected in fields.items():
        _check(record[name], expected, f"{where}.{name}".lstrip("."), path)


def _check_scalar(value: object, expected: type, where: str, path: Path | None) -> None:
    accepted = (int, float) if expected is float else expected
    if not isinstance(value, accepted) or (isinstance(value, bool) and expected is not bool):
        raise ArtifactError(f"{where} is {value!r}, not {expected.__name__}", path=path)
    if isinstance(value, float) and not math.isfinite(value):
        raise ArtifactError(f"{where} is {value}, not a finite number", path=path)


def _instance(value: object, expected: type, where: str, path: Path | None) -> Any:
    if not isinstance(value, expected):
        raise ArtifactError(
            f"{where or 'summary'} is {type(value).__name__}, not {expected.__name__}", path=path
        )
    return value
