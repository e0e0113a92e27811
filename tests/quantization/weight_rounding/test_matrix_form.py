from __future__ import annotations

import pytest
import torch
from torch import nn

from quantpipe.quantization.weight_rounding.matrix_form import matrix_form

OPERATIONS = {
    "3x3": nn.Conv2d(5, 7, 3, padding=1),
    "stride": nn.Conv2d(5, 4, 3, stride=2, padding=1),
    "uneven": nn.Conv2d(5, 4, (3, 1), stride=(1, 2), padding=(0, 2)),
    "1x1": nn.Conv2d(5, 6, 1),
    "transposed": nn.ConvTranspose2d(5, 4, 2, stride=2),
    "uneven transposed": nn.ConvTranspose2d(5, 3, (2, 3), stride=(2, 3)),
}


@pytest.mark.parametrize("name", OPERATIONS)
def test_rows_times_patches_are_the_outputs(name: str) -> None:
    operation = OPERATIONS[name]
    form = matrix_form(operation)
    assert form is not None
    generator = torch.Generator().manual_seed(1)
    weight, bias = operation.weight, operation.bias
    assert isinstance(weight, torch.Tensor)
    assert isinstance(bias, torch.Tensor)
    inputs = torch.randn(3, 5, 9, 8, generator=generator)
    with torch.no_grad():
        outputs = operation(inputs)
        patches = form.patches(inputs, outputs, 50, seed=2)
        computed = patches.inputs @ form.matrix(weight).T + form.rows(bias)
    assert len(computed) == 50
    torch.testing.assert_close(computed, patches.outputs, rtol=1e-4, atol=1e-5)
    assert form.weight(form.matrix(weight)).equal(weight)


def test_positions_are_drawn_once_each_and_the_same_for_a_seed() -> None:
    operation = nn.Conv2d(1, 1, 1, bias=False)
    form = matrix_form(operation)
    assert form is not None
    inputs = torch.arange(2 * 6 * 7.0).view(2, 1, 6, 7)
    everything = form.patches(inputs, inputs, 1000, seed=0)
    assert everything.outputs.flatten().equal(torch.arange(84.0))
    some = form.patches(inputs, inputs, 20, seed=5).inputs.flatten()
    assert len(set(some.tolist())) == 20
    assert some.equal(form.patches(inputs, inputs, 20, seed=5).inputs.flatten())
    assert not some.equal(form.patches(inputs, inputs, 20, seed=6).inputs.flatten())


@pytest.mark.parametrize(
    "operation",
    [
        nn.Conv2d(4, 4, 3, groups=2),
        nn.Conv2d(4, 4, 3, dilation=2),
        nn.Conv2d(4, 4, 3, padding="same"),
        nn.Conv2d(4, 4, 3, padding=1, padding_mode="reflect"),
        nn.ConvTranspose2d(4, 4, 3, stride=2),
        nn.ConvTranspose2d(4, 4, 2, stride=2, padding=1),
        nn.ConvTranspose2d(4, 4, 2, stride=2, output_padding=1),
        nn.MaxPool2d(2),
    ],
)
def test_what_is_no_product_of_one_matrix_has_no_form(operation: nn.Module) -> None:
    assert matrix_form(operation) is None
