"""LSQ's gradients (arXiv 1902.08153) against its equations by hand, and against differences."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from quantpipe.quantization.number_format import INT8
from quantpipe.quantization.simulation.learned_step import learned_fake_quantize
from quantpipe.quantization.simulation.rounding import fake_quantize


def gradients(
    values: Any, step: Any, weights: Any, axis: int | None, max_level: int, **more: Any
) -> tuple[Tensor, Tensor]:
    v = torch.as_tensor(values).float().requires_grad_()
    s = torch.as_tensor(step).float().requires_grad_()
    number_format = dataclasses.replace(INT8, max_level=max_level)
    out = learned_fake_quantize(v, s, axis, number_format, **more)
    by_values, by_step = torch.autograd.grad((out * torch.as_tensor(weights)).sum(), (v, s))
    return by_values, by_step


def test_gradients_are_equations_3_and_5() -> None:
    # v / s = -20, -3.2, -0.6, 0.4, 1.48, 2.98, 3, 20 with Q = 3
    values = [-10.0, -1.6, -0.3, 0.2, 0.74, 1.49, 1.5, 10.0]
    slopes = [-3.0, -3.0, -1 + 0.6, 0 - 0.4, 1 - 1.48, 3 - 2.98, 3.0, 3.0]
    passes = [0.0, 0.0, 1.0, 1.0, 1.0, 1.0, 0.0, 0.0]
    scale = 1 / math.sqrt(8 * 3)
    for index, (slope, through) in enumerate(zip(slopes, passes, strict=True)):
        one = torch.zeros(8)
        one[index] = 2.0
        by_values, by_step = gradients(values, [0.5], one, None, 3, num_values=8)
        assert by_values.tolist() == [2.0 * through if i == index else 0.0 for i in range(8)]
        assert by_step.item() == pytest.approx(2.0 * slope * scale, rel=1e-5, abs=1e-7)


def piecewise(values: Any, step: Any, at: Any, level: int) -> Any:
    """What equation 3 is the derivative of: rounding moves values by what it moves them at ``at``.

    s * round(clip(v / s)) with the step of ``round`` held, which is the straight-through estimate.
    """
    clipped = np.clip(values / at, -level, level)
    return step * (np.clip(values / step, -level, level) + np.round(clipped) - clipped)


@pytest.mark.parametrize("axis", [None, 0])
def test_the_steps_gradient_is_a_difference_quotient_of_the_piecewise_form(
    axis: int | None,
) -> None:
    rng = np.random.default_rng(0)
    values = rng.normal(0, 1, (5, 4, 3, 3))
    weights = rng.normal(0, 1, values.shape)
    step = np.array([0.009, 0.02, 0.013, 0.03, 0.001]) if axis == 0 else np.array([0.012])
    shaped = step.reshape(-1, 1, 1, 1)
    small = 1e-7
    slopes = (
        piecewise(values, shaped + small, shaped, 127)
        - piecewise(values, shaped - small, shaped, 127)
    ) / (2 * small)
    summed = (weights * slopes).sum((1, 2, 3))
    expected = summed if axis == 0 else summed.sum(keepdims=True)
    _, found = gradients(values, step, weights, axis, 127, num_values=1)
    np.testing.assert_allclose(found.numpy() * math.sqrt(127), expected, rtol=2e-4, atol=2e-3)


def test_the_forward_pass_is_that_of_fixed_ranges() -> None:
    values = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    step = torch.tensor([0.01, 0.02])
    found = learned_fake_quantize(values, step, 0, INT8, num_values=1)
    assert torch.equal(found, fake_quantize(values, step * 127, 0, INT8))


def test_the_gradient_scale_falls_with_the_values_and_takes_the_factor() -> None:
    values = torch.randn(64, generator=torch.Generator().manual_seed(0))
    ones = torch.ones(64)
    _, plain = gradients(values, [0.01], ones, None, 127, num_values=1)
    _, many = gradients(values, [0.01], ones, None, 127, num_values=64)
    _, fast = gradients(values, [0.01], ones, None, 127, num_values=64, lr_factor=3.0)
    assert many.item() == pytest.approx(plain.item() / 8, rel=1e-5)
    assert fast.item() == pytest.approx(3 * many.item(), rel=1e-5)


def test_the_memory_order_plays_no_part() -> None:
    values = torch.randn(2, 8, 6, 6, generator=torch.Generator().manual_seed(0))
    weights = torch.randn(values.shape, generator=torch.Generator().manual_seed(1))
    plain = gradients(values, [0.01], weights, None, 127, num_values=1)
    ordered = gradients(
        values.to(memory_format=torch.channels_last), [0.01], weights, None, 127, num_values=1
    )
    for one, other in zip(plain, ordered, strict=True):
        torch.testing.assert_close(one, other)


def test_only_the_input_the_output_and_the_step_are_kept() -> None:
    values = torch.randn(2, 8, 6, 6).requires_grad_()
    step = torch.tensor([0.01]).requires_grad_()
    kept: list[Tensor] = []

    def keep(tensor: Tensor) -> Tensor:
        kept.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        rounded = learned_fake_quantize(values, step, None, INT8, num_values=1)
    assert {t.data_ptr() for t in kept} == {t.data_ptr() for t in (values, step, rounded)}
