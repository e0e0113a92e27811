"""``objective: map of ptq``: what a sweeper is told of a job, and which jobs are best by it."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass

from quantpipe.errors import ConfigurationError, nearest
from quantpipe.report.variant import Variant

KEY = "objective"
_WRITE = "write <measure> of <variant>, as map of ptq"


@dataclass(frozen=True, kw_only=True)
class Measure:
    """A number that is measured of every variant, and whether more of it is better."""

    read: Callable[[Variant], float | None]
    more_is_better: bool


def _latency(variant: Variant) -> float | None:
    latency = variant.latency_ms.get(variant.smallest_batch or "")
    return None if latency is None else latency.p50


MEASURES: Mapping[str, Measure] = {
    "map": Measure(read=lambda variant: variant.map, more_is_better=True),
    "map50": Measure(read=lambda variant: variant.map50, more_is_better=True),
    "agreement": Measure(read=lambda variant: variant.agreement, more_is_better=True),
    "drop": Measure(read=lambda variant: variant.drop_vs_fp32, more_is_better=False),
    "latency": Measure(read=_latency, more_is_better=False),
    "fps": Measure(
        read=lambda variant: variant.fps.get(variant.smallest_batch or ""), more_is_better=True
    ),
    "size": Measure(read=lambda variant: variant.size_mb, more_is_better=False),
}
"""Average precision and its drop as fractions, latency in ms, size in MB; speeds at the smallest
batch."""


@dataclass(frozen=True, kw_only=True)
class Objective:
    """A measure of a variant."""

    measure: str
    variant: str

    def __str__(self) -> str:
        return f"{self.measure} of {self.variant}"

    @property
    def direction(self) -> str:
        """``maximize`` or ``minimize``."""
        return "maximize" if MEASURES[self.measure].more_is_better else "minimize"

    def value(self, variants: Sequence[Variant]) -> float | None:
        """What was measured; None where nothing was."""
        read = MEASURES[self.measure].read
        return next((read(v) for v in variants if v.name == self.variant), None)


def read_objectives(
    texts: str | Sequence[str] | None, variants: Collection[str]
) -> tuple[Objective, ...]:
    """Reads the setting ``objective``; there may be one, several or none.

    Raises:
        ConfigurationError: A measure or a variant is not known, or one stands there twice.
    """
    listed = [texts] if isinstance(texts, str) else list(texts or ())
    found = tuple(_read(text, variants) for text in listed)
    if len(set(found)) < len(found):
        raise ConfigurationError(f"{', '.join(map(str, found))} names one twice", path=KEY)
    return found


def _read(text: str, variants: Collection[str]) -> Objective:
    measure, of, variant = text.partition(" of ")
    measure, variant = measure.strip(), variant.strip()
    if not of:
        raise ConfigurationError(f"{text!r} is no objective", path=KEY, hint=_WRITE)
    if measure not in MEASURES:
        hint = nearest(measure, MEASURES)
        raise ConfigurationError(f"nothing called {measure!r} is measured", path=KEY, hint=hint)
    if variant not in variants:
        hint = nearest(variant, variants)
        raise ConfigurationError(f"no variant {variant!r} is compared", path=KEY, hint=hint)
    return Objective(measure=measure, variant=variant)


def best(
    values: Mapping[str, Sequence[float] | None], objectives: Sequence[Objective]
) -> list[str]:
    """The jobs that no other job beats: as good in everything and better in something.

    With one objective these are the best and its equals; with several, the Pareto front.
    """
    signs = [1 if objective.direction == "maximize" else -1 for objective in objectives]
    points = {
        job: tuple(sign * value for sign, value in zip(signs, measured, strict=True))
        for job, measured in values.items()
        if measured
    }
    return [
        job
        for job, point in points.items()
        if not any(_beats(other, point) for other in points.values())
    ]


def _beats(one: Sequence[float], other: Sequence[float]) -> bool:
    return one != other and all(a >= b for a, b in zip(one, other, strict=True))
