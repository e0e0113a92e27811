"""The scale cache: the one file from which frameworks and engines take their ranges."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from quantpipe.errors import ArtifactError
from quantpipe.quantization.documents import expect, read_document, write_document

FORMAT = "quantpipe-scales"
VERSION = 2

# A range for values that are all zero: its INT8 scale is the smallest normal half-precision number,
# so that an FP16 graph can hold it.
FLOOR_AMAX = 127.0 * 2.0**-14
_DEAD = 1e-12


def is_dead(amax: float) -> bool:
    """Whether a range is zero, or so small that its reciprocal is of no use in float32."""
    return amax < _DEAD


@dataclass(frozen=True, kw_only=True)
class TensorScale:
    """The range of one tensor: symmetric, narrow ([-127, 127] for 8 bits).

    Attributes:
        name: ``<operation>.input`` or ``<operation>.weight``.
        kind: What is quantized.
        axis: The channel axis, or None for one range for all.
        amax: Largest magnitude that is represented; one value, or one per channel.
        bits: Of the integer.
        method: How it was found.
    """

    name: str
    kind: Literal["activation", "weight"]
    axis: int | None
    amax: tuple[float, ...]
    bits: int
    method: str

    def __post_init__(self) -> None:
        suffix = {"activation": "input", "weight": "weight"}.get(self.kind)
        _require(suffix is not None, f"'{self.name}' is of kind '{self.kind}'")
        _require(self.name.endswith(f".{suffix}"), f"'{self.name}' names no {suffix}")
        _require(2 <= self.bits <= 8, f"'{self.name}' has {self.bits} bits")
        _require(self.axis in (None, 0, 1), f"'{self.name}' has axis {self.axis}")
        _require(
            len(self.amax) == 1 if self.axis is None else len(self.amax) > 0,
            f"'{self.name}' has {len(self.amax)} ranges for axis {self.axis}",
        )
        for value in self.amax:
            _require(math.isfinite(value) and value > 0.0, f"'{self.name}' has an amax of {value}")

    @property
    def operation(self) -> str:
        """The module path of the operation."""
        return self.name.rpartition(".")[0]

    @property
    def max_level(self) -> int:
        """The largest integer: 127 for 8 bits."""
        return (1 << (self.bits - 1)) - 1

    @property
    def scale(self) -> tuple[float, ...]:
        """The step between two integers, amax / max_level."""
        return tuple(value / self.max_level for value in self.amax)


@dataclass(frozen=True, kw_only=True)
class ScaleCache:
    """The ranges of a network, and what they were made from.

    Attributes:
        scales: By tensor name.
        bias_corrections: What an operation that runs in INT8 adds to its bias, one value per output
            channel, by operation. In float it adds nothing: the correction is for what rounding
            shifts.
        weights_digest: Of the weights.
        data_digest: Of the calibration images, in their order.
        preprocessing: What was done to them: image size, letterbox, ...
    """

    scales: Mapping[str, TensorScale]
    bias_corrections: Mapping[str, tuple[float, ...]]
    weights_digest: str
    data_digest: str
    preprocessing: Mapping[str, str | int | float]

    def __post_init__(self) -> None:
        for operation, values in self.bias_corrections.items():
            _require(f"{operation}.input" in self.scales, f"'{operation}' has no range")
            finite = len(values) > 0 and all(math.isfinite(value) for value in values)
            _require(finite, f"the bias correction of '{operation}' is not finite")

    def require_weights(self, digest: str, *, path: Path | None = None) -> None:
        """Refuses weights other than those the ranges were made from.

        Raises:
            ArtifactError: Names both digests.
        """
        if digest != self.weights_digest:
            raise ArtifactError(
                f"these scales belong to weights {self.weights_digest}, not to {digest}",
                path=path,
                hint="calibrate these weights, or use the checkpoint that the scales came from",
            )

    def operations(self) -> tuple[str, ...]:
        """Returns the operations that have an input range, in the order of the cache."""
        return tuple(s.operation for s in self.scales.values() if s.kind == "activation")

    def to_document(self) -> dict[str, Any]:
        """Returns what :meth:`save` writes."""
        return {
            "format": FORMAT,
            "version": VERSION,
            "weights_digest": self.weights_digest,
            "data_digest": self.data_digest,
            "preprocessing": dict(self.preprocessing),
            "bias_corrections": {n: list(v) for n, v in self.bias_corrections.items()},
            "scales": [
                {
                    "name": scale.name,
                    "kind": scale.kind,
                    "axis": scale.axis,
                    "bits": scale.bits,
                    "method": scale.method,
                    "amax": list(scale.amax),
                }
                for scale in self.scales.values()
            ],
        }


def build_scale_cache(
    activation_amax: Mapping[str, float],
    weights: Mapping[str, TensorScale],
    *,
    method: str,
    weights_digest: str,
    data_digest: str,
    preprocessing: Mapping[str, str | int | float],
    bits: int = 8,
) -> ScaleCache:
    """Puts activation ranges (by operation) and weight ranges (by tensor name) into one cache."""
    scales: dict[str, TensorScale] = {}
    for operation, amax in activation_amax.items():
        name = f"{operation}.input"
        scales[name] = TensorScale(
            name=name, kind="activation", axis=None, amax=(amax,), bits=bits, method=method
        )
        if (weight := f"{operation}.weight") in weights:
            scales[weight] = weights[weight]
    return ScaleCache(
        scales=scales,
        bias_corrections={},
        weights_digest=weights_digest,
        data_digest=data_digest,
        preprocessing=preprocessing,
    )


def save_scales(path: Path, cache: ScaleCache) -> None:
    """Writes the cache as JSON, whole or not at all."""
    write_document(path, cache.to_document())


def load_scales(path: Path) -> ScaleCache:
    """Reads a scale cache.

    Raises:
        ArtifactError: The file is damaged, of another version, or holds a range that is none.
    """
    document = read_document(path, FORMAT, VERSION)
    try:
        scales = [_scale(item) for item in expect(document, "scales", list)]
        names = [scale.name for scale in scales]
        _require(len(set(names)) == len(names), "a tensor is listed twice")
        return ScaleCache(
            scales={scale.name: scale for scale in scales},
            bias_corrections={
                name: _numbers(f"bias_corrections.{name}", values)
                for name, values in expect(document, "bias_corrections", dict).items()
            },
            weights_digest=expect(document, "weights_digest", str),
            data_digest=expect(document, "data_digest", str),
            preprocessing=_preprocessing(expect(document, "preprocessing", dict)),
        )
    except ArtifactError as error:
        raise ArtifactError(error.cause, path=path, hint="calibrate again") from error


def _scale(item: Any) -> TensorScale:
    axis = item.get("axis") if isinstance(item, dict) else None
    amax = _numbers("amax", expect(item, "amax", list))
    _require(axis is None or type(axis) is int, f"axis is {axis!r}")
    return TensorScale(
        name=expect(item, "name", str),
        kind=expect(item, "kind", str),
        axis=axis,
        amax=amax,
        bits=expect(item, "bits", int),
        method=expect(item, "method", str),
    )


def _numbers(what: str, values: Any) -> tuple[float, ...]:
    numeric = isinstance(values, list) and all(type(value) in (int, float) for value in values)
    _require(numeric, f"{what} is {json.dumps(values)[:60]}")
    return tuple(float(value) for value in values)


def _preprocessing(values: dict[str, Any]) -> dict[str, str | int | float]:
    for key, value in values.items():
        _require(isinstance(value, str | int | float), f"preprocessing.{key} is {value!r}")
    return values


def _require(condition: bool, cause: str) -> None:
    if not condition:
        raise ArtifactError(f"not a scale cache: {cause}")
