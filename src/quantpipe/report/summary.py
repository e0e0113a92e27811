"""``summary.json``: what a run measured, as one checked structure."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from quantpipe.documents import record
from quantpipe.errors import ArtifactError
from quantpipe.files import write_json
from quantpipe.quantization.number_format import is_quantized
from quantpipe.report.variant import Variant, batch_size

BASELINE = "fp32"
HALF = "half"


@dataclass(frozen=True, kw_only=True)
class RunInfo:
    """What ran, on what, and from what.

    Attributes:
        pipeline: Its recipe.
        command: As typed.
        started: ISO 8601, with the zone.
        seconds: From start to end.
        seed: Of everything random.
        device: Of simulation and training.
        hardware: The processor.
        model: Name and size of its input.
        data: Folder or kind.
        versions: Of quantpipe and the libraries it used.
    """

    pipeline: str
    command: str
    started: str
    seconds: float
    seed: int
    device: str
    hardware: str
    model: str
    data: str
    versions: Mapping[str, str]


@dataclass(frozen=True, kw_only=True)
class StageTime:
    """How long a step took in this run; a reused one took the time of its check and copy."""

    step: str
    seconds: float
    reused: bool


@dataclass(frozen=True, kw_only=True)
class Summary:
    """The whole of ``summary.json``."""

    run: RunInfo
    variants: tuple[Variant, ...]
    stages: tuple[StageTime, ...]


def build_summary(
    run: RunInfo, variants: Sequence[Variant], stages: Sequence[StageTime]
) -> Summary:
    """Returns the summary of a run, checked.

    The drop of a variant is against the ``fp32`` one on its engine at its input size, or where
    there is none, against the first ``fp32`` there is.

    Raises:
        ArtifactError: A value is NaN or infinite, or of the wrong type.
    """
    with_drops = tuple(replace(one, drop_vs_fp32=_drop(one, variants)) for one in variants)
    return _checked(asdict(Summary(run=run, variants=with_drops, stages=tuple(stages))))


def load_summary(path: Path) -> Summary:
    """Reads ``summary.json``.

    Raises:
        ArtifactError: The file cannot be read, is not JSON or is not a summary.
    """
    try:
        return _checked(json.loads(path.read_bytes()))
    except OSError as error:
        raise ArtifactError(f"cannot be read: {error.strerror}", path=path) from error
    except (ValueError, RecursionError) as error:
        raise ArtifactError(f"not JSON ({error})", path=path) from error
    except ArtifactError as error:
        error.path = path
        error.hint = "it was written by another version; run again to write it anew"
        raise


def _checked(values: object) -> Summary:
    return record(Summary, values)


def save_summary(path: Path, summary: Summary) -> None:
    """Writes ``summary.json`` atomically."""
    write_json(path, asdict(summary))


def speed_up(summary: Summary, variant: Variant, batch: str) -> float | None:
    """Returns images a second against the ``half`` variant on the same engine and input size."""
    for other in summary.variants:
        if other.name == HALF and _platform(other) == _platform(variant):
            mine, theirs = variant.fps.get(batch), other.fps.get(batch)
            return mine / theirs if mine and theirs else None
    return None


def slower_than_half(summary: Summary) -> list[str]:
    """Returns a line for every INT8 variant that is no faster than half precision, with its cause.

    The cause is what runs in float; where nothing does, INT8 itself does not pay there.
    """
    lines = []
    for variant in summary.variants:
        rates = {batch: speed_up(summary, variant, batch) for batch in variant.fps}
        slow = [f"{rate:.2f}x at {batch}" for batch, rate in rates.items() if rate and rate <= 1]
        if is_quantized(variant.precision) and slow:
            where = " and ".join(slow)
            lines.append(f"{variant.name} is not faster than half: {where}; {_cause(variant)}")
    return lines


def _cause(variant: Variant) -> str:
    reasons: dict[str, list[str]] = {}
    for fallback in variant.fallbacks:
        reasons.setdefault(fallback.reason, []).append(fallback.layer)
    if not reasons:
        return f"{variant.float_layers or 'no'} layers run in float"
    parts = [f"{', '.join(layers)} ({reason})" for reason, layers in reasons.items()]
    return f"in float: {'; '.join(parts)}"


def batch_names(summary: Summary) -> list[str]:
    """Returns the batch sizes that any variant ran at, ``b1`` before ``b32``."""
    names = {name for variant in summary.variants for name in variant.fps}
    return sorted(names, key=batch_size)


def _platform(variant: Variant) -> tuple[str, int | str]:
    return variant.engine, variant.image_size


def _drop(variant: Variant, variants: Sequence[Variant]) -> float | None:
    baselines = [one for one in variants if one.name == BASELINE and one.map is not None]
    nearest = [one for one in baselines if _platform(one) == _platform(variant)] or baselines
    if not nearest or nearest[0].map is None or variant.map is None:
        return None
    return nearest[0].map - variant.map
