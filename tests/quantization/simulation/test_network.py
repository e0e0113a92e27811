from __future__ import annotations

import copy
import dataclasses
from typing import TYPE_CHECKING

import pytest
import torch
from tests.calibrated_scales import calibrated_scales
from tests.precision_plans import all_int8
from torch import Tensor
from torch.nn import functional

from quantpipe.detector.families.yolov6.network import Detector
from quantpipe.errors import ArtifactError
from quantpipe.quantization.calibration.pytorch_quantization import pytorch_quantization_calibrators
from quantpipe.quantization.number_format import INT8
from quantpipe.quantization.precision_plan import PrecisionPlan
from quantpipe.quantization.scale_cache import ScaleCache
from quantpipe.quantization.simulation.network import (
    only_quantized,
    quantize,
    quantized_operations,
)
from quantpipe.quantization.simulation.rounding import fake_quantize

if TYPE_CHECKING:
    from tests.quantization.conftest import SmallNetwork


def integers(values: Tensor, scale: float | Tensor) -> Tensor:
    levels: Tensor = values.double() / scale
    return levels.round().clamp(-127, 127)


def test_per_tensor_and_per_channel_are_the_toolkits() -> None:
    assert pytorch_quantization_calibrators()
    from pytorch_quantization.tensor_quant import fake_tensor_quant

    values = torch.randn(4, 3, 5, 5, generator=torch.Generator().manual_seed(0)) * 3
    for axis, amax in ((None, torch.tensor([2.5])), (0, torch.tensor([1.0, 2.0, 3.0, 20.0]))):
        ours = fake_quantize(values, amax, axis, INT8)
        shape = (1,) if axis is None else (4, 1, 1, 1)
        theirs = fake_tensor_quant(values, amax.reshape(shape), 8, False)
        torch.testing.assert_close(ours, theirs, atol=1e-6, rtol=0)
        assert float((ours.abs() - amax.reshape(shape)).max()) <= 1e-6  # narrow: no -128


def test_gradient_passes_inside_and_stops_outside() -> None:
    values = torch.tensor([-3.0, -0.5, 0.0, 0.7, 1.5], requires_grad=True)
    total = fake_quantize(values, torch.tensor([1.0]), None, INT8).sum()
    (gradient,) = torch.autograd.grad(total, values)
    assert gradient.tolist() == [0.0, 1.0, 1.0, 1.0, 0.0]


def test_convolution_is_integer_arithmetic(
    network: SmallNetwork, scales: ScaleCache, batches: list[Tensor]
) -> None:
    """A conv of integers, times the two scales, plus the float bias: what an engine computes."""
    quantized = quantize(network, scales)
    x_scale = scales.scales["stem.input"].scale[0]
    w_scale = torch.tensor(scales.scales["stem.weight"].scale, dtype=torch.float64)
    x = integers(batches[0], x_scale)
    w = integers(network.stem.weight.detach(), w_scale.reshape(-1, 1, 1, 1))
    accumulated = functional.conv2d(x, w, stride=2, padding=1)
    expected = accumulated * x_scale * w_scale.reshape(-1, 1, 1)
    expected += network.get_parameter("stem.bias").detach().double().reshape(-1, 1, 1)
    with torch.no_grad():
        found = quantized.stem(batches[0])
    torch.testing.assert_close(found.double(), expected, atol=1e-5, rtol=1e-5)


def test_transposed_convolution_and_pool(network: SmallNetwork, scales: ScaleCache) -> None:
    quantized = quantize(network, scales)
    x = torch.randn(2, 8, 6, 6, generator=torch.Generator().manual_seed(2))
    scale = scales.scales["up.input"].scale[0]
    w_scale = scales.scales["up.weight"].scale[0]
    w = integers(network.up.weight.detach(), w_scale) * w_scale
    expected = functional.conv_transpose2d(
        integers(x, scale) * scale, w, network.get_parameter("up.bias").detach().double(), stride=2
    )
    torch.testing.assert_close(quantized.up(x).double(), expected, atol=1e-5, rtol=1e-5)
    pool_scale = scales.scales["pool.input"].scale[0]
    expected = functional.max_pool2d(integers(x, pool_scale) * pool_scale, 3, 1, 1)
    torch.testing.assert_close(quantized.pool(x).double(), expected, atol=1e-6, rtol=0)


def test_noise_is_that_of_rounding(
    network: SmallNetwork, scales: ScaleCache, batches: list[Tensor]
) -> None:
    """Uniform rounding noise has power scale^2 / 12."""
    scale = scales.scales["stem.input"].scale[0]
    noise = fake_quantize(batches[0], torch.tensor(scales.scales["stem.input"].amax), None, INT8)
    power = float((noise - batches[0]).square().mean())
    assert power == pytest.approx(scale**2 / 12, rel=0.1)


def test_methods_parameters_and_state_dict_survive(
    network: SmallNetwork, scales: ScaleCache, batches: list[Tensor]
) -> None:
    before = copy.deepcopy(network.state_dict())
    quantized = quantize(network, scales)
    assert list(quantized.state_dict()) == list(before)
    assert [n for n, _ in quantized.named_parameters()] == [
        n for n, _ in network.named_parameters()
    ]
    left, right = quantized.predict(batches[0])
    exact = network.predict(batches[0])
    for found, expected in zip((left, right), exact, strict=True):
        noise = (found - expected).square().mean() / expected.square().mean()
        assert 0 < noise < 0.01


def test_trained_weights_load_back_and_the_original_is_untouched(
    network: SmallNetwork, scales: ScaleCache, batches: list[Tensor]
) -> None:
    before = copy.deepcopy(network.state_dict())
    quantized = quantize(network, scales).train()
    optimizer = torch.optim.SGD(quantized.parameters(), lr=0.01)
    losses = []
    for _ in range(8):
        optimizer.zero_grad()
        loss = quantized(batches[0]).square().mean()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < losses[0]
    assert all(torch.equal(before[n], value) for n, value in network.state_dict().items())
    network.load_state_dict(quantized.state_dict(), strict=True)
    assert not torch.equal(network.stem.weight, before["stem.weight"])


def test_bfloat16_autocast_trains(
    network: SmallNetwork, scales: ScaleCache, batches: list[Tensor]
) -> None:
    quantized = quantize(network, scales).train()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = quantized(batches[0]).float().square().mean()
    loss.backward()
    assert quantized.stem.weight.grad is not None
    assert torch.isfinite(quantized.stem.weight.grad).all()
    with torch.no_grad():
        exact = network(batches[0]).square().mean()
    assert float(loss.detach()) == pytest.approx(float(exact), rel=0.05)


def test_plan_leaves_operations_in_float(
    network: SmallNetwork, scales: ScaleCache, batches: list[Tensor]
) -> None:
    plan = all_int8(scales.operations(), keep_float=["left", "right"])
    quantized = quantize(network, scales, plan)
    assert set(quantized_operations(quantized)) == set(plan.quantized)
    everything_float = PrecisionPlan(operations={"stem": "float"}, reason="")
    with torch.no_grad():
        same = quantize(network, scales, everything_float)(batches[0])
    assert torch.equal(same, network(batches[0]))


def test_only_quantized_switches_and_restores(
    network: SmallNetwork, scales: ScaleCache, batches: list[Tensor]
) -> None:
    quantized = quantize(network, scales)
    with torch.no_grad():
        everything, exact = quantized(batches[0]), network(batches[0])
        with only_quantized(quantized, ()):
            assert torch.equal(quantized(batches[0]), exact)
        with only_quantized(quantized, ("down",)):
            one = quantized(batches[0])
        alone = quantize(network, scales, PrecisionPlan(operations={"down": "int8"}, reason=""))
        assert torch.equal(one, alone(batches[0]))
        assert not torch.equal(one, exact)
        assert torch.equal(quantized(batches[0]), everything)


def test_zero_channel_stays_finite_and_can_train(
    network: SmallNetwork, scales: ScaleCache, batches: list[Tensor]
) -> None:
    network.stem.weight.data[3] = 0.0
    quantized = quantize(network, scales)
    output = quantized(batches[0])
    assert torch.isfinite(output).all()
    output.sum().backward()
    assert quantized.stem.weight.grad is not None
    assert torch.isfinite(quantized.stem.weight.grad).all()


def without(scales: ScaleCache, name: str) -> ScaleCache:
    kept = {key: scale for key, scale in scales.scales.items() if key != name}
    return dataclasses.replace(scales, scales=kept)


def test_missing_ranges_name_the_operation(network: SmallNetwork, scales: ScaleCache) -> None:
    plan = all_int8(scales.operations())
    with pytest.raises(ArtifactError, match="no input range for operation 'down'"):
        quantize(network, without(scales, "down.input"), plan)
    with pytest.raises(ArtifactError, match="no weight range for operation 'down'"):
        quantize(network, without(scales, "down.weight"), plan)


def test_ranges_of_another_network_are_refused(network: SmallNetwork, scales: ScaleCache) -> None:
    renamed = dataclasses.replace(scales.scales["down.input"], name="deeper.down.input")
    other = dataclasses.replace(scales, scales={renamed.name: renamed})
    with pytest.raises(ArtifactError, match=r"no operation 'deeper\.down'"):
        quantize(network, other)
    short = dataclasses.replace(scales.scales["down.weight"], amax=(1.0, 2.0))
    other = dataclasses.replace(scales, scales={**scales.scales, "down.weight": short})
    with pytest.raises(ArtifactError, match="8 channels and 2 weight ranges"):
        quantize(network, other)


def test_detector_keeps_predict_and_its_state_dict(detector: Detector) -> None:
    images = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    quantized = quantize(detector, calibrated_scales(detector, [images]))
    assert len(quantized_operations(quantized)) == 59
    with torch.no_grad():
        found, exact = quantized.predict(images), detector.predict(images)
    for noisy, clean in zip(found.features, exact.features, strict=True):
        assert 0 < (noisy - clean).square().mean() / clean.square().mean() < 0.02
    detector.load_state_dict(quantized.state_dict(), strict=True)


def test_a_bias_correction_counts_in_int8_alone_and_is_no_parameter(
    network: SmallNetwork, scales: ScaleCache, batches: list[Tensor]
) -> None:
    added = (1.0, -2.0, 0.5, 4.0)
    corrected = quantize(network, dataclasses.replace(scales, bias_corrections={"right": added}))
    plain = quantize(network, scales)
    with torch.no_grad():
        difference = corrected.predict(batches[0])[1] - plain.predict(batches[0])[1]
        expected = torch.tensor(added).view(1, -1, 1, 1).expand_as(difference)
        torch.testing.assert_close(difference, expected)
        with only_quantized(corrected, ()):
            assert corrected(batches[0]).equal(network(batches[0]))
    assert set(corrected.state_dict()) == set(network.state_dict())


@pytest.mark.parametrize(("name", "channels", "has"), [("right", 5, 4), ("pool", 8, 0)])
def test_a_bias_correction_that_fits_no_bias_is_refused(
    network: SmallNetwork, scales: ScaleCache, name: str, channels: int, has: int
) -> None:
    wrong = dataclasses.replace(scales, bias_corrections={name: (0.0,) * channels})
    with pytest.raises(ArtifactError, match=f"'{name}' has {has} biases and {channels} corr"):
        quantize(network, wrong)
