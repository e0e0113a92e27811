"""Predicting what a plan takes from what its layers take in engines of one precision.

A plan takes the sum of its operations' times, each in its own precision, and more wherever the
precision changes: the result of an operation that others read in the other precision has to be
converted, once for all of them. Both extremes, INT8 throughout and float throughout, are
predicted as they were timed.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class LatencyModel:
    """Milliseconds of one batch.

    Attributes:
        int8_ms: By operation, in INT8.
        float_ms: By operation, in float, with its share of what else is slower there.
        base_ms: What belongs to no operation.
        border_ms: By operation, for its result to be there in the other precision.
        readers: Who reads each operation's result, through concats and activations too.
    """

    int8_ms: Mapping[str, float]
    float_ms: Mapping[str, float]
    base_ms: float
    border_ms: Mapping[str, float]
    readers: Mapping[str, frozenset[str]]

    def predicted(self, float_operations: Collection[str]) -> float:
        """Returns the milliseconds of a plan."""
        kept = set(float_operations)
        own = sum(
            self.float_ms[name] if name in kept else self.int8_ms[name] for name in self.int8_ms
        )
        return self.base_ms + own + sum(self.border_ms[n] for n in borders(self.readers, kept))


@dataclass(frozen=True, kw_only=True)
class EngineTimes:
    """An engine of one precision: a whole batch, and how its layers divide it.

    Attributes:
        whole: Milliseconds, timed without counting layers.
        operations: Milliseconds of the layers of each operation, while layers are counted.
        elsewhere: Of the other layers.
    """

    whole: float
    operations: Mapping[str, float]
    elsewhere: float

    def scaled(self) -> EngineTimes:
        """The same with layers that sum to the whole: counting them slows all of them down."""
        factor = self.whole / (sum(self.operations.values()) + self.elsewhere)
        return EngineTimes(
            whole=self.whole,
            operations={name: time * factor for name, time in self.operations.items()},
            elsewhere=self.elsewhere * factor,
        )


@dataclass(frozen=True, kw_only=True)
class MixedEngine:
    """A timed engine of a mixed plan: its float operations, and a whole batch."""

    float_operations: frozenset[str]
    whole: float


def borders(readers: Mapping[str, frozenset[str]], kept: Collection[str]) -> list[str]:
    """Returns the operations whose result is read in the precision that they do not compute in."""
    return [
        name
        for name, others in readers.items()
        if any((other in kept) != (name in kept) for other in others)
    ]


def fit_latency(
    int8: EngineTimes,
    floats: EngineTimes,
    mixed: Sequence[MixedEngine],
    *,
    sizes: Mapping[str, int],
    readers: Mapping[str, frozenset[str]],
) -> LatencyModel:
    """Makes the model from two engines of one precision and some that change it often.

    What float layers of no operation take longer is divided among the operations by the size of
    their results. The price of a border for each element is the least-squares fit of what the mixed
    engines take beyond the sum of their layers, and at least zero.

    Args:
        int8: INT8 throughout.
        floats: Float throughout.
        mixed: Engines with many borders.
        sizes: Elements of each operation's result.
        readers: Who reads each operation's result.
    """
    int8, floats = int8.scaled(), floats.scaled()
    more, total = floats.elsewhere - int8.elsewhere, sum(sizes.values())
    free = LatencyModel(
        int8_ms={name: int8.operations.get(name, 0.0) for name in sizes},
        float_ms={
            name: floats.operations.get(name, 0.0) + more * size / total
            for name, size in sizes.items()
        },
        base_ms=int8.elsewhere,
        border_ms=dict.fromkeys(sizes, 0.0),
        readers=readers,
    )
    price = _border_price(free, mixed, sizes)
    return LatencyModel(
        int8_ms=free.int8_ms,
        float_ms=free.float_ms,
        base_ms=free.base_ms,
        border_ms={name: price * size for name, size in sizes.items()},
        readers=readers,
    )


def _border_price(
    free: LatencyModel, mixed: Sequence[MixedEngine], sizes: Mapping[str, int]
) -> float:
    crossing = [
        sum(sizes[name] for name in borders(free.readers, engine.float_operations))
        for engine in mixed
    ]
    beyond = [engine.whole - free.predicted(engine.float_operations) for engine in mixed]
    squares = sum(size**2 for size in crossing)
    if not squares:
        return 0.0
    return max(0.0, sum(s * b for s, b in zip(crossing, beyond, strict=True)) / squares)
