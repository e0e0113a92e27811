from __future__ import annotations

import pytest
import torch

from quantpipe.quantization.output_error import OUTPUT_ERRORS
from quantpipe.quantization.random_projection import projected, random_signs


def test_the_expected_squared_change_is_the_error_to_second_order() -> None:
    generator = torch.Generator().manual_seed(0)
    outputs = [torch.randn(1, 5, 3, generator=generator), torch.rand(1, 5, 4, generator=generator)]
    changes = [1e-3 * torch.randn(o.shape, generator=generator) for o in outputs]
    changed = [o + c for o, c in zip(outputs, changes, strict=True)]
    error = OUTPUT_ERRORS["detections"]
    total = 0.0
    for projection in range(4000):
        asked = [output.clone().requires_grad_(True) for output in outputs]
        signs = random_signs(outputs, 0, projection, 1)
        gradients = torch.autograd.grad(projected(asked, error, signs), asked)
        moved = sum((g * c).sum() for g, c in zip(gradients, changes, strict=True))
        total += float(moved) ** 2
    assert total / 4000 == pytest.approx(float(error.measure(changed, outputs)), rel=0.1)


def test_signs_of_an_image_do_not_depend_on_its_batch() -> None:
    outputs = [torch.zeros(4, 6, 2)]
    (whole,) = random_signs(outputs, 0, 0, 5)
    (part,) = random_signs([torch.zeros(2, 6, 2)], 2, 0, 5)
    assert whole[2:].equal(part)
    assert set(whole.flatten().tolist()) == {-1.0, 1.0}
    for other in ((1, 0, 5), (0, 1, 5), (0, 0, 6)):
        assert not random_signs(outputs, *other)[0].equal(whole)
