"""Rounding to symmetric integers, in float.

x becomes round(x / scale) * scale with the integer clamped to [-127, 127], scale = amax / 127; the
gradient passes unchanged inside the range and is zero outside (straight-through estimator,
Bengio et al., arXiv 1308.3432). Rounding is half to even, as in engines.
"""

from __future__ import annotations

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
    scale = amax.float() / max_level
    zero = torch.zeros(len(scale), dtype=torch.int32, device=values.device)
    wide = values.float()
    if axis is None:
        rounded = torch.fake_quantize_per_tensor_affine(wide, scale, zero, -max_level, max_level)
    else:
        rounded = torch.fake_quantize_per_channel_affine(
            wide, scale, zero, axis, -max_level, max_level
        )
    return rounded.to(values.dtype)
