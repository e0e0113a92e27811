"""The range of a weight in a released checkpoint, as the range of the weight that is deployed.

pytorch-quantization looks at the weight of its own module. Where a BatchNorm stands beside the
convolution that is the weight before folding, W, and what is deployed is W g / sqrt(v + eps): each
output channel and its range are multiplied by the same number. Quantizing W and multiplying is the
same as multiplying and quantizing with the multiplied range, so that nothing is lost. Which of the
two a range is of is decided by the largest magnitudes of the deployed weight itself.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from quantpipe.errors import ArtifactError
from quantpipe.quantization.calibration.weights import WEIGHT_AXIS
from quantpipe.quantization.number_format import INT8
from quantpipe.quantization.operations import Operation
from quantpipe.quantization.scale_cache import is_dead
from quantpipe.quantization.simulation.rounding import channel_amax

# Training with fixed ranges moves weights a little away from them. What nine of ten channels are
# further off than this is a range of something else.
_LARGEST_MISFIT = math.log(1.25)
_SHARE_OF_CHANNELS = 0.9
# Of the largest range of a weight: channels below it do not tell what the range is of.
_NEGLIGIBLE = 1e-3


@dataclass(frozen=True, kw_only=True)
class FittedRange:
    """The range of an operation's weight.

    Attributes:
        operation: Whose.
        amax: One value, or one per output channel.
        folded: Whether it was multiplied as BatchNorm multiplies the weight.
    """

    operation: Operation
    amax: tuple[float, ...]
    folded: bool


def fitted_range(
    operation: Operation,
    network: nn.Module,
    amax: Tensor,
    factor: Tensor | None,
    path: Path,
    shown: str,
) -> FittedRange:
    """Chooses the form of a range that fits the weight.

    Args:
        operation: With a weight.
        network: The deployed one.
        amax: As the file has it: one value, or one per channel in any shape.
        factor: What folding multiplies the output channels by, (C_out,); None for no BatchNorm.
        path: The file.
        shown: What network the file shows, for the end of a message.

    Raises:
        ArtifactError: The number of ranges is not that of the channels, one is not finite or
            negative, or they fit in neither form.
    """
    axis = WEIGHT_AXIS[operation.kind]
    weight = network.get_parameter(f"{operation.name}.weight").detach().cpu()
    largest = channel_amax(weight, axis).double()
    values = amax.detach().cpu().double().reshape(-1)
    values = values.max().reshape(1) if axis is None and len(values) else values
    _require_ranges(operation, values, len(largest), path, shown)
    forms = {False: torch.ones_like(largest)}
    if factor is not None and factor.shape == largest.shape:
        forms = {True: factor.abs(), **forms}
    misfits = {folded: _misfit(values, largest, scale) for folded, scale in forms.items()}
    folded = min(misfits, key=misfits.__getitem__)
    if misfits[folded] > _LARGEST_MISFIT:
        raise _unfit(operation, list(misfits.values()), path)
    return FittedRange(
        operation=operation,
        amax=tuple(
            INT8.floor_amax if is_dead(value) else value
            for value in (values * forms[folded]).float().tolist()
        ),
        folded=folded,
    )


def _require_ranges(
    operation: Operation, values: Tensor, channels: int, path: Path, shown: str
) -> None:
    if len(values) not in (1, channels):
        raise ArtifactError(
            f"the weight of '{operation.name}' has {len(values)} ranges, in the model "
            f"{channels} channels",
            path=path,
            hint=shown,
        )
    if not bool(torch.isfinite(values).all()) or bool((values < 0).any()):
        raise ArtifactError(
            f"the weight of '{operation.name}' has a range that is not finite or negative",
            path=path,
        )


def _misfit(values: Tensor, largest: Tensor, factor: Tensor) -> float:
    """How far ranges times a factor are from the largest magnitudes: the logarithm of the ratio.

    Of one range for all channels the tensor before multiplication is what it belongs to.
    """
    if len(values) < len(largest):
        live = factor >= _NEGLIGIBLE * factor.max()
        largest = (largest[live] / factor[live]).max().reshape(1)
    else:
        values = values * factor
    floor = _NEGLIGIBLE * largest.max() + torch.finfo(torch.float32).tiny
    logarithms = ((values + floor) / (largest + floor)).log().abs().nan_to_num(nan=math.inf)
    return float(torch.quantile(logarithms, _SHARE_OF_CHANNELS))


def _unfit(operation: Operation, misfits: list[float], path: Path) -> ArtifactError:
    fits = "fit neither before nor after BatchNorm is folded" if misfits[1:] else "do not fit"
    shown = " and ".join(f"{math.exp(misfit):.3g}" for misfit in misfits)
    return ArtifactError(
        f"the weight ranges of '{operation.name}' {fits}: they are off by a factor of {shown}",
        path=path,
        hint="take the weights of the same file: train_repopt.checkpoint",
    )
