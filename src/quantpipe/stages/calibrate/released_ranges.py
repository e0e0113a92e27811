"""Ranges of a released checkpoint whose convolutions are pytorch-quantization modules."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

from quantpipe.detector.families.implementation import Released
from quantpipe.detector.released.tensors import read_state
from quantpipe.errors import ArtifactError
from quantpipe.quantization.calibration.weights import WEIGHT_AXIS
from quantpipe.quantization.number_format import INT8
from quantpipe.quantization.operations import Operation
from quantpipe.quantization.scale_cache import TensorScale, is_dead

METHOD = "checkpoint"
_INPUT, _WEIGHT = "._input_quantizer._amax", "._weight_quantizer._amax"


class ReleasedRanges(NamedTuple):
    """What a checkpoint knows of a network.

    Attributes:
        activations: amax of each operation's input.
        weights: By ``<operation>.weight``.
        missing: Operations that it left in float.
    """

    activations: dict[str, float]
    weights: dict[str, TensorScale]
    missing: tuple[str, ...]


def read_released_ranges(
    path: Path, network: nn.Module, operations: Sequence[Operation], released: Released
) -> ReleasedRanges:
    """Reads input and weight ranges, by the names of either generation.

    A transposed convolution gets one range for all channels, the largest: the only form that all
    engines take. Operations that the checkpoint does not quantize are left out.

    Raises:
        ArtifactError: The file is damaged or hostile, holds no range, or one that does not fit.
    """
    state = read_state(path)
    our_name = released.operation_namer(operation.name for operation in operations)
    inputs, weights = _by_layer(state, _INPUT, our_name), _by_layer(state, _WEIGHT, our_name)
    layers = {n: our_name(n.removesuffix(_INPUT)) for n in state if n.endswith(_INPUT)}
    unknown = [name for name, ours in layers.items() if ours is None]
    if unknown and not unknown[0].startswith(released.idle):
        raise ArtifactError(f"the model has no operation for '{unknown[0]}'", path=path)
    if not inputs:
        raise ArtifactError(
            "holds no ranges", path=path, hint="give a checkpoint that was calibrated"
        )
    known = [operation for operation in operations if _whole(operation, inputs, weights)]
    return ReleasedRanges(
        activations={o.name: _positive(inputs[o.name], o.name, path, 1)[0] for o in known},
        weights={
            f"{o.name}.weight": _weight_scale(o, network, weights[o.name], path)
            for o in known
            if o.kind in WEIGHT_AXIS
        },
        missing=tuple(o.name for o in operations if o not in known),
    )


def _whole(
    operation: Operation, inputs: Mapping[str, Tensor], weights: Mapping[str, Tensor]
) -> bool:
    has_weight = operation.kind not in WEIGHT_AXIS or operation.name in weights
    return operation.name in inputs and has_weight


def _by_layer(
    state: Mapping[str, Tensor], suffix: str, our_name: Callable[[str], str | None]
) -> dict[str, Tensor]:
    """Ranges by the name of our operation."""
    found = {our_name(n.removesuffix(suffix)): t for n, t in state.items() if n.endswith(suffix)}
    return {name: tensor for name, tensor in found.items() if name is not None}


def _weight_scale(
    operation: Operation, network: nn.Module, amax: Tensor, path: Path
) -> TensorScale:
    axis = WEIGHT_AXIS[operation.kind]
    name = f"{operation.name}.weight"
    amax = amax.max().reshape(1) if axis is None else amax
    channels = 1 if axis is None else network.get_parameter(name).shape[axis]
    return TensorScale(
        name=name,
        kind="weight",
        axis=axis,
        amax=_positive(amax, name, path, channels),
        number_format=INT8,
        method=METHOD,
    )


def _positive(amax: Tensor, name: str, path: Path, length: int) -> tuple[float, ...]:
    values = amax.reshape(-1)
    if len(values) != length:
        raise ArtifactError(
            f"'{name}' has {len(values)} ranges, the model {length} channels",
            path=path,
            hint="choose the model that it is of with model=",
        )
    if not bool(torch.isfinite(values).all()) or bool((values < 0).any()):
        raise ArtifactError(f"'{name}' has a range that is not finite or negative", path=path)
    return tuple(INT8.floor_amax if is_dead(value) else value for value in values.tolist())
