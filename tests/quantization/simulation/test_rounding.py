"""The passes that processors take are torch's own kernels, bit for bit."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest
import torch
from torch import Tensor

from quantpipe.quantization.number_format import INT8, NumberFormat
from quantpipe.quantization.simulation.rounding import fake_quantize, round_to

LEVEL = 127


def values() -> Tensor:
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(4, 3, 16, 16, generator=generator) * 3
    # Ties, the ends of the range and what lies beyond them.
    scale = 2.0 / LEVEL
    exact = torch.tensor([0.0, 0.5, 1.5, -2.5, 126.5, 127.0, 127.4, 127.6, 128.0, 1e4]) * scale
    noise[0, 0, 0, :10], noise[0, 0, 1, :10] = exact, -exact
    return noise


def torchs(x: Tensor, amax: Tensor, axis: int | None) -> Tensor:
    zero = torch.zeros(len(amax), dtype=torch.int32)
    if axis is None:
        return torch.fake_quantize_per_tensor_affine(x, amax / LEVEL, zero, -LEVEL, LEVEL)
    return torch.fake_quantize_per_channel_affine(x, amax / LEVEL, zero, axis, -LEVEL, LEVEL)


@pytest.mark.parametrize(
    ("amax", "axis"), [([2.0], None), ([0.1], None), ([2.0, 1.0, 7.0, 0.3], 0), ([1.0, 2.0, 9], 1)]
)
@pytest.mark.parametrize("memory", [torch.contiguous_format, torch.channels_last])
def test_values_and_gradients_are_those_of_torchs_kernel(
    amax: list[float], axis: int | None, memory: torch.memory_format
) -> None:
    ranges = torch.tensor(amax)
    ours, theirs = (values().to(memory_format=memory).requires_grad_() for _ in range(2))
    found, expected = fake_quantize(ours, ranges, axis, INT8), torchs(theirs, ranges, axis)
    assert torch.equal(found, expected)
    assert torch.equal(round_to(ours.detach(), ranges, axis, INT8), expected)
    weights = torch.randn(found.shape, generator=torch.Generator().manual_seed(1))
    (found * weights).sum().backward()  # type: ignore[no-untyped-call]
    (expected * weights).sum().backward()  # type: ignore[no-untyped-call]
    assert ours.grad is not None
    assert theirs.grad is not None
    assert torch.equal(ours.grad, theirs.grad)
    assert 0 < int((ours.grad == 0).sum()) < ours.numel()
    assert torch.equal(ours.detach(), values())


def test_half_precision_comes_back_as_it_came() -> None:
    x = values().bfloat16()
    found = fake_quantize(x, torch.tensor([2.0]), None, INT8)
    assert found.dtype == torch.bfloat16
    assert torch.equal(found, torchs(x.float(), torch.tensor([2.0]), None).bfloat16())


def test_a_nan_is_not_hidden() -> None:
    x = torch.tensor([float("nan"), 1.0])
    assert fake_quantize(x, torch.tensor([2.0]), None, INT8).isnan().tolist() == [True, False]


def test_another_format_is_another_value() -> None:
    """FP8 E4M3 (448 its largest number), against the library that ONNX takes its types from."""
    fp8 = NumberFormat(
        name="fp8_e4m3",
        kind="float",
        bits=8,
        signed=True,
        max_level=448,
        zero_point=0,
        onnx_type="FLOAT8E4M3FN",
    )
    scale = np.float32(2.0) / np.float32(448)
    levels = np.clip(values().numpy() / scale, -448, 448)
    expected = levels.astype(ml_dtypes.float8_e4m3fn).astype(np.float32) * scale
    x = values().requires_grad_()
    found = fake_quantize(x, torch.tensor([2.0]), None, fp8)
    np.testing.assert_array_equal(found.detach().numpy(), expected)
    assert len(np.unique(found.detach())) < len(np.unique(x.detach()))
    (gradient,) = torch.autograd.grad(found.sum(), x)
    assert torch.equal(gradient, (x.detach().abs() < 2.0 * (1 + 0.5 / 448)).float())
