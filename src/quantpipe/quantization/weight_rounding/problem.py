"""One operation's rounding as a problem of its own: which integers keep its outputs best."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from quantpipe.quantization.simulation.network import FakeQuantized
from quantpipe.quantization.simulation.rounding import fake_quantize
from quantpipe.quantization.weight_rounding.codes import steps
from quantpipe.quantization.weight_rounding.matrix_form import MatrixForm


@dataclass(frozen=True, kw_only=True, eq=False)
class RoundingProblem:
    """Weights, what they are multiplied with, and what that should give.

    Attributes:
        weights: (R, K) in steps of the integers.
        inputs: (N, K), as the operation reads them in INT8.
        outputs: (N, R), as the float network gives them.
        bias: (R,).
        step: (R,), the distance between two integers.
        fixed: (R, K), whether an integer has to stay the nearest.
        max_level: The largest integer.
    """

    weights: Tensor
    inputs: Tensor
    outputs: Tensor
    bias: Tensor
    step: Tensor
    fixed: Tensor
    max_level: int

    @property
    def nearest(self) -> Tensor:
        """The integers of nearest rounding, (R, K), as floats."""
        return self.weights.round().clamp(-self.max_level, self.max_level)


Rounding = Callable[[RoundingProblem], Tensor]
"""Solves a problem: returns integers (R, K) as floats, within its limits."""


def rounding_problem(
    operation: FakeQuantized,
    form: MatrixForm,
    inputs: Tensor,
    outputs: Tensor,
    *,
    num_positions: int,
    seed: int,
) -> RoundingProblem:
    """Gathers the problem of an operation.

    The largest weights of a range stay where they are, and so do channels of zeros: the range that
    a consumer would find by itself in the adjusted weights remains that of the scale cache.

    Args:
        operation: Holds weight, bias and ranges.
        form: Of the operation.
        inputs: (B, C_in, H, W), what the operation reads in the quantized network, not yet rounded.
        outputs: (B, C_out, H', W'), what it gives in the float network.
        num_positions: How many positions to compare at, at most.
        seed: Of their draw.
    """
    scale, weight, bias = operation.weight_scale, operation.weight, operation.bias
    assert scale is not None
    assert weight is not None
    drawn = form.patches(inputs, outputs, num_positions, seed)
    amax = torch.tensor(operation.activation.amax, device=inputs.device)
    read = fake_quantize(drawn.inputs, amax, None, operation.activation.number_format)
    limit = scale.number_format.max_level
    step = steps(weight, scale).expand_as(weight).contiguous()
    matrix_step = form.matrix(step)
    weights = form.matrix(weight.detach()) / matrix_step
    channels = outputs.shape[1]
    offsets = torch.zeros(channels, device=weight.device) if bias is None else bias.detach()
    return RoundingProblem(
        weights=weights,
        inputs=read,
        outputs=drawn.outputs,
        bias=form.rows(offsets),
        step=matrix_step[:, 0],
        fixed=_at_the_limit(weights, limit),
        max_level=limit,
    )


def _at_the_limit(weights: Tensor, max_level: int) -> Tensor:
    zero_rows = (weights == 0).all(dim=1, keepdim=True)
    return (weights.abs() > max_level * (1 - 1e-5)) | zero_rows
