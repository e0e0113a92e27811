from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from quantpipe.quantization.number_format import INT8
from quantpipe.quantization.scale_cache import TensorScale
from quantpipe.quantization.simulation.rounding import channel_amax, fake_quantize
from quantpipe.quantization.weight_rounding.codes import codes_of, weight_with_codes


def scale_of(weight: Tensor, axis: int | None) -> TensorScale:
    amax = tuple(channel_amax(weight, axis).tolist())
    return TensorScale(
        name="a.weight", kind="weight", axis=axis, amax=amax, number_format=INT8, method="max"
    )


@pytest.fixture(params=[0, None])
def case(request: pytest.FixtureRequest) -> tuple[Tensor, TensorScale]:
    generator = torch.Generator().manual_seed(3)
    weight = torch.randn(6, 5, 3, 3, generator=generator) * torch.logspace(-4, 2, 6).view(
        6, 1, 1, 1
    )
    return weight, scale_of(weight, request.param)


def test_codes_are_the_integers_of_fake_quantization(case: tuple[Tensor, TensorScale]) -> None:
    weight, scale = case
    codes = codes_of(weight, scale)
    step = np.array(scale.amax, dtype=np.float32) / np.float32(127)
    shape = (-1, 1, 1, 1) if scale.axis == 0 else ()
    expected = np.rint(weight.numpy() / step.reshape(shape))
    np.testing.assert_array_equal(codes.numpy(), expected)
    assert int(codes.abs().max()) == 127


def test_any_integers_survive_ordinary_rounding(case: tuple[Tensor, TensorScale]) -> None:
    weight, scale = case
    generator = torch.Generator().manual_seed(4)
    wanted = torch.randint(-127, 128, weight.shape, generator=generator).to(torch.int8)
    moved = weight_with_codes(weight, wanted, scale)
    assert codes_of(moved, scale).equal(wanted)
    amax = torch.tensor(scale.amax)
    values = fake_quantize(moved, amax, scale.axis, INT8)
    step = (amax / 127).view(-1, 1, 1, 1)
    torch.testing.assert_close(values, wanted * step, rtol=1e-6, atol=0)


def test_they_survive_half_precision_and_its_widened_ranges(
    case: tuple[Tensor, TensorScale],
) -> None:
    """Where every neighbor of the nearest integer is chosen, and weights and steps are float16."""
    weight, scale = case
    if scale.axis == 0:
        weight, scale = weight[3:], scale_of(weight[3:], 0)  # float16 holds no steps of 1e-6
    nearest = codes_of(weight, scale).int()
    side = torch.where(weight.flatten(1).cumsum(1).view_as(weight) > 0, 1, -1)
    wanted = (nearest + side).clamp(-127, 127).to(torch.int8)
    moved = weight_with_codes(weight, wanted, scale).numpy().astype(np.float16)
    step = (np.array(scale.amax, dtype=np.float32) / np.float32(127)).astype(np.float16)
    up = np.nextafter(step, np.float16(np.inf)).astype(np.float32)
    shape = (-1, 1, 1, 1) if scale.axis == 0 else ()
    found = np.rint(moved.astype(np.float32) / up.reshape(shape))
    changed = wanted.numpy() != nearest.numpy()
    assert changed.any()
    np.testing.assert_array_equal(found[changed], wanted.numpy()[changed])


def test_only_weights_with_another_integer_move_and_no_farther_than_they_must(
    case: tuple[Tensor, TensorScale],
) -> None:
    weight, scale = case
    wanted = codes_of(weight, scale)
    assert weight_with_codes(weight, wanted, scale).equal(weight)
    wanted[2, 1, 0, 0] += -1 if wanted[2, 1, 0, 0] > 0 else 1
    moved = weight_with_codes(weight, wanted, scale)
    different = (moved != weight).nonzero().tolist()
    assert different == [[2, 1, 0, 0]]
    step = scale.amax[2 if scale.axis == 0 else 0] / 127
    distance = abs(float(moved[2, 1, 0, 0]) / step - float(wanted[2, 1, 0, 0]))
    assert distance == pytest.approx(0.25, abs=1e-3)
