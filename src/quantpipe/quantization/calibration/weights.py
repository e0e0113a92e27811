"""Weight ranges: per output channel for a convolution, one for a transposed convolution.

One range serves a transposed convolution because engines disagree about its channel axis, and a
range per tensor is the only form that all of them run in INT8.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from quantpipe.errors import NumericalError
from quantpipe.progress import Progress
from quantpipe.quantization.number_format import NumberFormat
from quantpipe.quantization.operations import Operation, OperationKind
from quantpipe.quantization.scale_cache import TensorScale, is_dead
from quantpipe.quantization.simulation.rounding import channel_amax, channel_rows, fake_quantize

WeightMethod = Literal["max", "mse"]

WEIGHT_AXIS: Mapping[OperationKind, int | None] = {"conv": 0, "conv_transpose": None}

# Shares of the largest magnitude that the search for the least squared error tries, largest first:
# eight bits lose more by clipping half than by rounding.
_RATIOS = tuple(percent / 100.0 for percent in range(100, 48, -2))


def weight_scales(
    network: nn.Module,
    operations: Sequence[Operation],
    method: WeightMethod,
    *,
    number_format: NumberFormat,
    progress: Progress,
) -> dict[str, TensorScale]:
    """Returns the weight ranges of every operation that has weights, by ``<operation>.weight``.

    ``max`` is the largest magnitude; ``mse`` the share of it, in steps of 2 %, that loses the least
    squared error. A channel of zeros gets a small range and a note.

    Raises:
        NumericalError: A weight is not finite; names the operation.
    """
    scales = {}
    for operation in operations:
        if operation.kind not in WEIGHT_AXIS:
            continue
        weight = network.get_parameter(f"{operation.name}.weight").detach().float().cpu()
        axis = WEIGHT_AXIS[operation.kind]
        scales[f"{operation.name}.weight"] = TensorScale(
            name=f"{operation.name}.weight",
            kind="weight",
            axis=axis,
            amax=_ranges(operation.name, weight, axis, method, number_format, progress),
            number_format=number_format,
            method=method,
        )
    return scales


def _ranges(
    name: str,
    weight: Tensor,
    axis: int | None,
    method: WeightMethod,
    number_format: NumberFormat,
    progress: Progress,
) -> tuple[float, ...]:
    largest = channel_amax(weight, axis)
    if not torch.isfinite(largest).all():
        raise NumericalError(f"the weights of operation '{name}' hold a NaN or an infinity")
    dead = [index for index, value in enumerate(largest.tolist()) if is_dead(value)]
    if dead:
        progress.note(f"weights of operation '{name}' are zero in channels {dead}")
        largest[dead] = number_format.floor_amax
    if method == "mse":
        largest = _least_error(channel_rows(weight, axis), largest, number_format)
    return tuple(largest.tolist())


def _least_error(rows: Tensor, largest: Tensor, number_format: NumberFormat) -> Tensor:
    """Returns the range of each row that loses least; of equal ones the largest."""
    best, least = largest, torch.full_like(largest, torch.inf)
    for ratio in _RATIOS:
        amax = largest * ratio
        error = (fake_quantize(rows, amax, 0, number_format) - rows).square().sum(dim=1)
        best, least = torch.where(error < least, amax, best), torch.minimum(error, least)
    return best
