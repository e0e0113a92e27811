"""The scale cache: the one file from which frameworks and engines take their ranges."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from quantpipe.documents import read_as, write_document
from quantpipe.errors import ArtifactError
from quantpipe.quantization.number_format import NUMBER_FORMATS, NumberFormat
from quantpipe.schema import NamedIn

FORMAT = "quantpipe-scales"
VERSION = 3

_DEAD = 1e-12


def is_dead(amax: float) -> bool:
    """Whether a range is zero, or so small that its reciprocal is of no use in float32."""
    return amax < _DEAD


@dataclass(frozen=True, kw_only=True)
class TensorScale:
    """The range of one tensor: symmetric, narrow ([-127, 127] for INT8).

    Attributes:
        name: ``<operation>.input`` or ``<operation>.weight``.
        kind: What is quantized.
        axis: The channel axis, or None for one range for all.
        amax: Largest magnitude that is represented; one value, or one per channel.
        number_format: That the tensor is rounded to.
        method: How it was found.
    """

    name: str
    kind: Literal["activation", "weight"]
    axis: int | None
    amax: tuple[float, ...]
    number_format: Annotated[NumberFormat, NamedIn(NUMBER_FORMATS)]
    method: str

    def __post_init__(self) -> None:
        suffix = {"activation": "input", "weight": "weight"}.get(self.kind)
        _require(suffix is not None, f"'{self.name}' is of kind '{self.kind}'")
        _require(self.name.endswith(f".{suffix}"), f"'{self.name}' names no {suffix}")
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
    def scale(self) -> tuple[float, ...]:
        """What a level stands for, amax / the largest one."""
        return tuple(value / self.number_format.max_level for value in self.amax)


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

    @property
    def number_format(self) -> NumberFormat:
        """That of the ranges, which are all of one calibration."""
        return next(iter(self.scales.values())).number_format

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
                    "number_format": scale.number_format.name,
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
    number_format: NumberFormat,
) -> ScaleCache:
    """Puts activation ranges (by operation) and weight ranges (by tensor name) into one cache."""
    scales: dict[str, TensorScale] = {}
    for operation, amax in activation_amax.items():
        name = f"{operation}.input"
        scales[name] = TensorScale(
            name=name,
            kind="activation",
            axis=None,
            amax=(amax,),
            number_format=number_format,
            method=method,
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
    stored = read_as(_Document, path, FORMAT, VERSION, hint="calibrate again")
    scales = {scale.name: scale for scale in stored.scales}
    try:
        _require(len(scales) == len(stored.scales), "a tensor is listed twice")
        return ScaleCache(**{**vars(stored), "scales": scales})
    except ArtifactError as error:
        raise ArtifactError(error.cause, path=path, hint="calibrate again") from error


@dataclass(frozen=True, kw_only=True)
class _Document:
    """A scale cache as it stands in its file."""

    scales: tuple[TensorScale, ...]
    bias_corrections: Mapping[str, tuple[float, ...]]
    weights_digest: str
    data_digest: str
    preprocessing: Mapping[str, str | int | float]


def _require(condition: bool, cause: str) -> None:
    if not condition:
        raise ArtifactError(f"not a scale cache: {cause}")
