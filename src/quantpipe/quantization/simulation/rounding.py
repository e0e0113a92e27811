"""Rounding to the codes of a number format, in float.

x becomes round(x / scale) * scale with the code clamped to [-L, L], scale = amax / L, L the
format's largest level (127 for INT8); the gradient passes unchanged inside the range and is zero
outside (straight-through estimator, Bengio et al., arXiv
1308.3432). Rounding is half to even, as in engines.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from quantpipe.quantization.number_format import NumberFormat

_FLOAT_TYPES = {"FLOAT8E4M3FN": torch.float8_e4m3fn, "FLOAT8E5M2": torch.float8_e5m2}


def fake_quantize(
    values: Tensor, amax: Tensor, axis: int | None, number_format: NumberFormat
) -> Tensor:
    """Rounds to the values that a signed format can hold in a range.

    Args:
        values: Any shape; computed in float32 whatever its type.
        amax: (1,), or (C,) for one range per channel of ``axis``.
        axis: The channel axis, or None.
        number_format: Of the codes.
    """
    rounded: Tensor = _Rounding.apply(values.float(), amax, axis, number_format)  # type: ignore[no-untyped-call]
    return rounded.to(values.dtype)


def round_to(values: Tensor, amax: Tensor, axis: int | None, number_format: NumberFormat) -> Tensor:
    """Does the same for float32 values, without a gradient."""
    max_level = number_format.max_level
    scale = amax.float() / max_level
    if number_format.kind == "float":
        scale = along(scale, axis, values.ndim)
        levels = (values / scale).clamp(-max_level, max_level)
        return levels.to(_FLOAT_TYPES[number_format.onnx_type]).float() * scale
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


def channel_rows(weight: Tensor, axis: int | None) -> Tensor:
    """Returns (C, N), a row for each channel of ``axis``; (1, N) where that is None."""
    return weight.reshape(1, -1) if axis is None else weight.movedim(axis, 0).flatten(1)


def channel_amax(weight: Tensor, axis: int | None) -> Tensor:
    """Returns the largest magnitude per channel of ``axis``, (C,), or of all, (1,)."""
    return channel_rows(weight.detach(), axis).abs().amax(dim=1)


def inside(values: Tensor, limit: Tensor) -> Tensor:
    """Returns 1.0 where magnitudes are below ``limit``, else 0.0, in memory of its own."""
    return values.abs().lt_(limit)


class _Rounding(torch.autograd.Function):
    @staticmethod
    def forward(
        context: Any,
        values: Tensor,
        amax: Tensor,
        axis: int | None,
        number_format: NumberFormat,
    ) -> Tensor:
        # Most inputs are kept for the gradient of the ReLU that made them anyway.
        context.save_for_backward(values, amax)
        context.axis, context.number_format = axis, number_format
        return round_to(values, amax, axis, number_format)

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> tuple[Tensor, None, None, None]:
        values, amax = context.saved_tensors
        # A value that rounds to the largest integer is inside.
        limit = amax.float() * (1.0 + 0.5 / context.number_format.max_level)
        limit = along(limit, context.axis, values.ndim)
        return inside(values, limit).mul_(gradient), None, None, None
