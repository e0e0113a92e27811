"""Ranges of a released checkpoint whose convolutions are pytorch-quantization modules."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from torch import Tensor, nn

from quantpipe.detector.families.implementation import Released
from quantpipe.detector.released.tensors import read_network, split_quantizers
from quantpipe.errors import ArtifactError
from quantpipe.quantization.calibration.weights import WEIGHT_AXIS
from quantpipe.quantization.number_format import INT8
from quantpipe.quantization.operations import Operation
from quantpipe.quantization.scale_cache import TensorScale, is_dead
from quantpipe.stages.calibrate.fitted_range import FittedRange, fitted_range

METHOD = "checkpoint"
_INPUT, _WEIGHT = "._input_quantizer._amax", "._weight_quantizer._amax"


class ReleasedRanges(NamedTuple):
    """What a checkpoint knows of a network.

    Attributes:
        activations: amax of each operation's input.
        weights: By ``<operation>.weight``.
        notes: What was scaled and what was left out, a line each, with its count.
    """

    activations: dict[str, float]
    weights: dict[str, TensorScale]
    notes: tuple[str, ...]


def read_released_ranges(
    path: Path, network: nn.Module, operations: Sequence[Operation], released: Released
) -> ReleasedRanges:
    """Reads input and weight ranges, by the names of either generation.

    The network is the deployed one. A range that was taken before BatchNorm was folded becomes that
    of the folded weights, layer by layer (:func:`fitted_range`). A transposed convolution gets one
    range for all channels, the largest: the only form that all engines take. Operations that the
    checkpoint does not quantize are left out.

    Raises:
        ArtifactError: The file is damaged or hostile, holds no range, or one that does not fit.
    """
    state = read_network(path).tensors
    quantizers = split_quantizers(state)[1]
    our_name = released.operation_namer(operation.name for operation in operations)
    shown = released.describe(state)
    _require_ranges(quantizers, our_name, released.idle, path, shown)
    inputs, weights = (_by_layer(quantizers, suffix, our_name) for suffix in (_INPUT, _WEIGHT))
    factors = {our_name(n): factor for n, factor in released.fold_factors(state).items()}
    known = [operation for operation in operations if _whole(operation, inputs, weights)]
    activations = {o.name: _activation_range(inputs[o.name], o.name, path) for o in known}
    fitted = [
        fitted_range(o, network, weights[o.name], factors.get(o.name), path, shown)
        for o in known
        if o.kind in WEIGHT_AXIS
    ]
    return ReleasedRanges(
        activations=activations,
        weights={f"{found.operation.name}.weight": _scale(found) for found in fitted},
        notes=(
            *_folding(fitted, path),
            *_left_in_float([o.name for o in operations if o not in known], path),
            *_unused(quantizers, {o.name for o in known}, our_name, path),
        ),
    )


def _require_ranges(
    quantizers: Mapping[str, Tensor],
    our_name: Callable[[str], str | None],
    idle: tuple[str, ...],
    path: Path,
    shown: str,
) -> None:
    layers = [n.removesuffix(_INPUT) for n in quantizers if n.endswith(_INPUT)]
    unknown = [n for n in layers if our_name(n) is None and not n.startswith(idle)]
    if unknown:
        raise ArtifactError(
            f"the model has no operation for '{unknown[0]}', which has a range",
            path=path,
            hint=shown,
        )
    if not layers:
        raise ArtifactError(
            "holds no ranges", path=path, hint="give a checkpoint that was calibrated"
        )


def _whole(
    operation: Operation, inputs: Mapping[str, Tensor], weights: Mapping[str, Tensor]
) -> bool:
    has_weight = operation.kind not in WEIGHT_AXIS or operation.name in weights
    return operation.name in inputs and has_weight


def _by_layer(
    quantizers: Mapping[str, Tensor], suffix: str, our_name: Callable[[str], str | None]
) -> dict[str, Tensor]:
    """Ranges by the name of our operation."""
    found = {
        our_name(n.removesuffix(suffix)): t for n, t in quantizers.items() if n.endswith(suffix)
    }
    return {name: tensor for name, tensor in found.items() if name is not None}


def _activation_range(amax: Tensor, name: str, path: Path) -> float:
    if amax.numel() != 1:
        raise ArtifactError(
            f"the input of '{name}' has {amax.numel()} ranges where one belongs", path=path
        )
    value = float(amax)
    if not (math.isfinite(value) and value >= 0):
        raise ArtifactError(
            f"the input of '{name}' has a range that is not finite or negative", path=path
        )
    return INT8.floor_amax if is_dead(value) else value


def _scale(found: FittedRange) -> TensorScale:
    return TensorScale(
        name=f"{found.operation.name}.weight",
        kind="weight",
        axis=WEIGHT_AXIS[found.operation.kind],
        amax=found.amax,
        number_format=INT8,
        method=METHOD,
    )


def _folding(fitted: Sequence[FittedRange], path: Path) -> Iterable[str]:
    folded = sum(found.folded for found in fitted)
    if folded:
        yield (
            f"{path.name} has the weight ranges of {folded} of {len(fitted)} operations as they "
            "are before BatchNorm is folded; they were scaled as their weights were"
        )


def _left_in_float(missing: Sequence[str], path: Path) -> Iterable[str]:
    if missing:
        yield f"{path.name} leaves {len(missing)} operations in float: {_first(missing)}"


def _unused(
    quantizers: Mapping[str, Tensor],
    known: Collection[str],
    our_name: Callable[[str], str | None],
    path: Path,
) -> Iterable[str]:
    layers = {name: name.removesuffix(_INPUT).removesuffix(_WEIGHT) for name in quantizers}
    unused = [name for name, layer in layers.items() if our_name(layer) not in known]
    if unused:
        yield f"{path.name}: {len(unused)} quantizer tensors have no use here: {_first(unused)}"


def _first(names: Sequence[str]) -> str:
    return ", ".join(names[:4]) + (", ..." if names[4:] else "")
