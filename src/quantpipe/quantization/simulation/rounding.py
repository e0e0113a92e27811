"""Rounding to symmetric integers, in float.

x becomes round(x / scale) * scale with the integer clamped to [-127, 127], scale = amax / 127; the
gradient passes unchanged inside the range and is zero outside (straight-through estimator,
Bengio et al., arXiv 1308.3432). Rounding is half to even, as in engines.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def fake_quantize(values: Tensor, amax: Tensor, axis: int | None, max_level: int) -> Tensor:
    """Rounds to the 2 * max_level + 1 values that symmetric integers can hold.

    Args:
        values: Any shape; computed in float32 whatever its type.
        amax: (1,), or (C,) for one range per channel of ``axis``.
        axis: The channel axis, or None.
        max_level: The largest integer.
    """
    rounded: Tensor = _Rounding.apply(values.float(), amax, axis, max_level)  # type: ignore[no-untyped-call]
    return rounded.to(values.dtype)


def round_to(values: Tensor, amax: Tensor, axis: int | None, max_level: int) -> Tensor:
    """Does the same for float32 values, without a gradient."""
    scale = amax.float() / max_level
    if values.is_cpu:
        # What torch's kernel computes, bit for bit; but that is not vectorized on processors, and
        # takes four times as long as these passes.
        scale = along(scale, axis, values.ndim)
        integers = (values * scale.reciprocal()).round_().clamp_(-max_level, max_level)
        return integers.mul_(scale)
    zero = torch.zeros(len(scale), dtype=torch.int32, device=values.device)
    if axis is None:
        return torch.fake_quantize_per_tensor_affine(values, scale, zero, -max_level, max_level)
    return torch.fake_quantize_per_channel_affine(values, scale, zero, axis, -max_level, max_level)


def along(channels: Tensor, axis: int | None, num_dimensions: int) -> Tensor:
    """Returns (C,) or (1,) shaped so that it broadcasts along ``axis`` of a tensor."""
    if axis is None:
        return channels
    return channels.view([-1 if d == axis else 1 for d in range(num_dimensions)])


def inside(values: Tensor, limit: Tensor) -> Tensor:
    """Returns 1.0 where magnitudes are below ``limit``, else 0.0, in memory of its own."""
    return values.abs().lt_(limit)


class _Rounding(torch.autograd.Function):
    @staticmethod
    def forward(
        context: Any, values: Tensor, amax: Tensor, axis: int | None, max_level: int
    ) -> Tensor:
        # Most inputs are kept for the gradient of the ReLU that made them anyway.
        context.save_for_backward(values, amax)
        context.axis, context.max_level = axis, max_level
        return round_to(values, amax, axis, max_level)

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> tuple[Tensor, None, None, None]:
        values, amax = context.saved_tensors
        # A value that rounds to the largest integer is inside.
        limit = amax.float() * (1.0 + 0.5 / context.max_level)
        limit = along(limit, context.axis, values.ndim)
        return inside(values, limit).mul_(gradient), None, None, None
