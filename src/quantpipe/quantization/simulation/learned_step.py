"""Rounding whose step size has a gradient, so that ranges can be learned with the weights.

LSQ, Esser et al., "Learned Step Size Quantization", arXiv 1902.08153.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from quantpipe.quantization.number_format import NumberFormat
from quantpipe.quantization.simulation.rounding import along, inside, round_to


def learned_fake_quantize(
    values: Tensor,
    step: Tensor,
    axis: int | None,
    number_format: NumberFormat,
    *,
    num_values: int,
    lr_factor: float = 1.0,
) -> Tensor:
    """Rounds as :func:`~.rounding.fake_quantize` at amax = step * its level; both get a gradient.

    With s the step and Q the largest level, the result r is s * round(clip(v / s, -Q, Q)), and

    * dr/dv is 1 where -Q < v/s < Q, else 0 (equation 5);
    * dr/ds is round(v/s) - v/s there, -Q below and Q above (equation 3), times the gradient scale
      1 / sqrt(num_values * Q) (section 2.2).

    Between the passes it keeps its input and its output, which the operations around it keep too.

    Args:
        values: Any shape; computed in float32 whatever its type.
        step: (1,), or (C,) for one step per channel of ``axis``; positive.
        axis: The channel axis, or None.
        number_format: Of the codes.
        num_values: N of the gradient scale: the weights that share a step, or the values of one
            image in an activation.
        lr_factor: Multiplies the gradient scale; to SGD, a factor on the step's learning rate.
    """
    gradient_scale = lr_factor / math.sqrt(num_values * number_format.max_level)
    rounded: Tensor = _LearnedStep.apply(values.float(), step, axis, number_format, gradient_scale)  # type: ignore[no-untyped-call]
    return rounded.to(values.dtype)


class _LearnedStep(torch.autograd.Function):
    """One node instead of a chain: a chain would keep a tensor of the input's size per link."""

    @staticmethod
    def forward(
        context: Any,
        values: Tensor,
        step: Tensor,
        axis: int | None,
        number_format: NumberFormat,
        gradient_scale: float,
    ) -> Tensor:
        rounded = round_to(values, step * number_format.max_level, axis, number_format)
        context.save_for_backward(values, step, rounded)
        context.axis, context.max_level = axis, number_format.max_level
        context.gradient_scale = gradient_scale
        return rounded

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> tuple[Tensor, Tensor, None, None, None]:
        values, step, rounded = context.saved_tensors
        dimensions = [d for d in range(values.ndim) if d != context.axis]
        step = along(step, context.axis, values.ndim)
        by_values = inside(values, step * context.max_level).mul_(gradient)
        # s times equation 3 is the rounded value, less the value itself where that is inside.
        slopes = (gradient * rounded).addcmul_(by_values, values, value=-1.0)
        by_step = (slopes.sum(dimensions, keepdim=True) / step).flatten()
        return by_values, by_step * context.gradient_scale, None, None, None
