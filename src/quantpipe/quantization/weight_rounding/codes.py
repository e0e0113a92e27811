"""The integers that weights are rounded to, and weights that are rounded to chosen integers.

Every consumer of a network (fake quantization, Q/DQ export, an engine's own quantizer) rounds its
weights to the nearest integer. A better choice of integers is therefore stored in the weights
themselves: those whose integer is another than the nearest one are moved across the boundary.
"""

from __future__ import annotations

import torch
from torch import Tensor

from quantpipe.quantization.scale_cache import TensorScale
from quantpipe.quantization.simulation.rounding import fake_quantize

# How far, in steps, a moved weight stays from the boundary that it crossed. In an FP16 graph a
# weight of 127 steps is off by up to 0.06 steps, and its range, rounded up, by up to 0.12.
_MARGIN = 0.25


def steps(weight: Tensor, scale: TensorScale) -> Tensor:
    """Returns the distance between two integers, shaped to broadcast against ``weight``."""
    values = torch.tensor(scale.amax, device=weight.device) / scale.number_format.max_level
    return values if scale.axis is None else values.view(-1, *[1] * (weight.dim() - 1))


def codes_of(weight: Tensor, scale: TensorScale) -> Tensor:
    """Returns the integers that fake quantization rounds ``weight`` to, as int8 of its shape."""
    amax = torch.tensor(scale.amax, device=weight.device)
    rounded = fake_quantize(weight.detach(), amax, scale.axis, scale.number_format)
    return (rounded / steps(weight, scale)).round().to(torch.int8)


def weight_with_codes(weight: Tensor, codes: Tensor, scale: TensorScale) -> Tensor:
    """Returns the weights next to ``weight`` that are rounded to ``codes``.

    A weight whose nearest integer is its code already stays as it is, bit by bit. Any other goes to
    the near side of its code, a quarter of a step behind the boundary, so that the arithmetic of
    no consumer (float32 by division or by reciprocal, FP16) rounds it back.

    Args:
        weight: Any shape.
        codes: int8 of that shape, within the integers of ``scale``.
        scale: Its ranges, on axis 0 or for all.
    """
    weight = weight.detach()
    step, wanted = steps(weight, scale), codes.to(weight.dtype)
    reach = 0.5 - _MARGIN
    moved = torch.clamp(weight / step, wanted - reach, wanted + reach) * step
    return torch.where(codes_of(weight, scale) == codes, weight, moved)
