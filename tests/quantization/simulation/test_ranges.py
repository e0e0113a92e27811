"""Ranges that change in training: shared where tensors meet, published as they were trained."""

from __future__ import annotations

import copy
import dataclasses
import math
import pickle
from typing import TYPE_CHECKING, Any

import pytest
import torch
from tests.precision_plans import all_int8
from torch import Tensor, nn

from quantpipe.quantization.number_format import INT8
from quantpipe.quantization.scale_cache import ScaleCache, TensorScale
from quantpipe.quantization.shared_ranges import concat_groups
from quantpipe.quantization.simulation.network import (
    quantize,
    quantize_to_train,
    quantized_operations,
    without_ranges,
)
from quantpipe.quantization.simulation.ranges import (
    Averaged,
    AveragedRange,
    Fixed,
    Learned,
    LearnedRange,
    RangeRule,
)
from quantpipe.quantization.simulation.trained_ranges import scales_after_training, scales_of

if TYPE_CHECKING:
    from tests.quantization.conftest import SmallNetwork

LEARNED = Learned(lr_factor=1.0)
AVERAGED = Averaged(decay=0.9, frozen_fraction=0.25)
EXAMPLE = torch.zeros(1, 3, 32, 32)
GROUPS = {
    frozenset({"pool", "after_pools"}),
    frozenset({"down", "after_up"}),
    frozenset({"left", "right"}),
}


def activation(amax: float) -> TensorScale:
    return TensorScale(
        name="x.input", kind="activation", axis=None, amax=(amax,), number_format=INT8, method="max"
    )


def trainable(network: Any, scales: ScaleCache, rule: RangeRule) -> Any:
    groups = concat_groups(network, EXAMPLE)
    return quantize_to_train(network, scales, None, rule=rule, groups=groups).train()


def stepped(quantized: nn.Module, images: Tensor, *, lr: float = 1e-4) -> None:
    optimizer = torch.optim.SGD(quantized.parameters(), lr=lr)
    for _ in range(3):
        optimizer.zero_grad()
        quantized(images).square().mean().backward()
        optimizer.step()
        for module in quantized.modules():
            if isinstance(module, AveragedRange):
                module.follow(module.seen.clone(), done=0.0)


def test_the_average_is_the_recurrence_and_stays_in_the_last_part() -> None:
    averaged = AveragedRange(activation(4.0), decay=0.9, frozen_fraction=0.25).train()
    expected = 4.0
    for step in range(1, 9):
        largest = 3.0 + step
        averaged(torch.tensor([[-largest, 1.0]]))
        averaged(torch.tensor([[0.5, 2.0]]))  # of two batches of a step the larger counts
        assert averaged.seen.item() == largest
        averaged.follow(averaged.seen.clone(), done=step / 8)
        if step <= 6:
            expected = 0.9 * expected + 0.1 * largest
        assert averaged.average.item() == pytest.approx(expected, rel=1e-6)
        assert averaged.seen.item() == 0


def test_averages_look_at_training_batches_only_and_round_to_what_was_before() -> None:
    averaged = AveragedRange(activation(1.0), decay=0.5, frozen_fraction=0.0).eval()
    averaged(torch.tensor([9.0]))
    assert averaged.seen.item() == 0
    assert averaged.train()(torch.tensor([9.0])).item() == 1.0


def test_no_range_reaches_zero() -> None:
    averaged = AveragedRange(activation(1.0), decay=0.0, frozen_fraction=0.0)
    averaged.follow(torch.zeros(()), done=0.5)
    learned = LearnedRange(activation(1.0), 1.0)
    learned.step.data -= 1.0
    learned.keep_positive()
    for kept in (averaged, learned):
        assert kept.amax(None).item() == pytest.approx(1 / 128)


def test_tensors_that_meet_in_a_concat_train_one_range(
    network: SmallNetwork, scales: ScaleCache, batches: list[Tensor]
) -> None:
    assert set(concat_groups(network, EXAMPLE)) == GROUPS
    for rule in (LEARNED, AVERAGED):
        quantized = trainable(network, scales, rule)
        stepped(quantized, batches[0])
        for group in GROUPS:
            (amax,) = {scales_of(quantized)[f"{name}.input"].amax for name in group}
            assert amax != scales.scales[f"{min(group)}.input"].amax


def step_gradient(quantized: nn.Module, name: str) -> float:
    step = quantized_operations(quantized)[name].input_range.get_parameter("step")
    assert step.grad is not None
    return float(step.grad)


def test_a_shared_step_gets_the_gradients_of_all_its_readers(
    network: SmallNetwork, scales: ScaleCache, batches: list[Tensor]
) -> None:
    together = trainable(network, scales, LEARNED)
    apart = quantize_to_train(network, scales, None, rule=LEARNED, groups=())
    for quantized in (together, apart):
        quantized(batches[0]).square().mean().backward()
    for group in GROUPS:
        alone = sum(step_gradient(apart, name) for name in group)
        assert step_gradient(together, min(group)) == pytest.approx(alone, rel=1e-4)


@pytest.mark.parametrize("rule", [LEARNED, AVERAGED], ids=["learned", "ema"])
def test_copies_share_as_the_original_does_and_a_state_names_each_range_once(
    rule: RangeRule, network: SmallNetwork, scales: ScaleCache
) -> None:
    quantized = trainable(network, scales, rule)
    for copied in (copy.deepcopy(quantized), pickle.loads(pickle.dumps(quantized))):
        for group in GROUPS:
            ranges = {id(quantized_operations(copied)[name].input_range) for name in group}
            assert len(ranges) == 1
        assert list(copied.state_dict()) == list(quantized.state_dict())
    added = [name for name in quantized.state_dict() if name not in network.state_dict()]
    num_inputs = 8 - len(GROUPS)
    num_weights = 7 if rule is LEARNED else 0
    assert len(added) == num_inputs + num_weights
    places = [tensor.data_ptr() for tensor in quantized.state_dict().values()]
    assert len(set(places)) == len(places)


@pytest.mark.parametrize("rule", [Fixed(), LEARNED, AVERAGED], ids=["fixed", "learned", "ema"])
def test_what_is_published_computes_what_was_trained(
    rule: RangeRule, network: SmallNetwork, scales: ScaleCache, batches: list[Tensor]
) -> None:
    quantized = trainable(network, scales, rule)
    stepped(quantized, batches[0])
    state = without_ranges(quantized.state_dict())
    assert list(state) == list(network.state_dict())
    network.load_state_dict(state, strict=True)
    published = scales_after_training(scales, quantized, weights_digest="new")
    assert (published.scales == scales.scales) == isinstance(rule, Fixed)
    with torch.no_grad():
        deployed = quantize(network, published)(batches[1])
        assert torch.equal(deployed, quantized.eval()(batches[1]))


def test_the_published_ranges_say_how_they_were_found(
    network: SmallNetwork, scales: ScaleCache
) -> None:
    methods = {
        kind: {s.method for s in scales_of(trainable(network, scales, rule)).values()}
        for kind, rule in (("learned", LEARNED), ("ema", AVERAGED))
    }
    assert methods == {"learned": {"learned"}, "ema": {"ema", "max"}}


def test_float_operations_stay_float_and_keep_their_calibrated_ranges(
    network: SmallNetwork, scales: ScaleCache, batches: list[Tensor]
) -> None:
    plan = all_int8(scales.operations(), keep_float=["left", "pool"])
    groups = concat_groups(network, EXAMPLE)
    quantized = quantize_to_train(network, scales, plan, rule=LEARNED, groups=groups).train()
    stepped(quantized, batches[0])
    assert type(quantized.left) is nn.Conv2d
    assert type(quantized.pool) is nn.MaxPool2d
    published = scales_after_training(scales, quantized, weights_digest="new")
    for name in ("left.input", "left.weight", "pool.input"):
        assert published.scales[name] == scales.scales[name]
    assert published.scales["right.input"] != scales.scales["right.input"]


def test_steps_per_channel_of_a_convolution_and_per_tensor_of_a_transposed_one(
    network: SmallNetwork, scales: ScaleCache
) -> None:
    steps = {n: p for n, p in trainable(network, scales, LEARNED).named_parameters() if "step" in n}
    assert steps["stem._weight_range.step"].shape == (8,)
    assert steps["up._weight_range.step"].shape == (1,)
    amax = torch.tensor(scales.scales["stem.weight"].amax)
    torch.testing.assert_close(steps["stem._weight_range.step"].detach() * 127, amax)


@pytest.mark.parametrize("num_images", [1, 4])
def test_the_gradient_scale_counts_the_values_of_one_image(num_images: int) -> None:
    """So that neither the batch nor the number of ranks it is spread over plays a part."""
    learned = LearnedRange(activation(1.0), 1.0)
    image = torch.rand(1, 3, 4, 4, generator=torch.Generator().manual_seed(0)) * 2
    learned(image.expand(num_images, -1, -1, -1)).sum().div(num_images).backward()
    v = image.double() / (1 / 127)
    slopes = torch.where(v < 127, v.round() - v, 127.0)
    expected = float(slopes.sum()) / math.sqrt(3 * 4 * 4 * 127)
    assert learned.step.grad is not None
    assert learned.step.grad.item() == pytest.approx(expected, rel=1e-4)


def test_weight_ranges_follow_the_weights_and_survive_a_channel_of_zeros(
    network: SmallNetwork, scales: ScaleCache
) -> None:
    quantized = trainable(network, scales, AVERAGED)
    quantized.stem.weight.data *= 3
    quantized.stem.weight.data[2] = 0
    _, weight = quantized_operations(quantized)["stem"].published_scales()
    amax = torch.tensor(weight.amax)
    expected = torch.tensor(scales.scales["stem.weight"].amax) * 3
    expected[2] /= 3
    torch.testing.assert_close(amax, expected)


def test_a_calibrated_range_of_few_bits_is_learned_at_its_own_level(
    network: SmallNetwork, scales: ScaleCache, batches: list[Tensor]
) -> None:
    int4 = dataclasses.replace(INT8, name="int4", bits=4, max_level=7, onnx_type="INT4")
    narrow = {n: dataclasses.replace(s, number_format=int4) for n, s in scales.scales.items()}
    four = dataclasses.replace(scales, scales=narrow)
    with torch.no_grad():
        learned = trainable(network, four, LEARNED)(batches[0])
        assert torch.equal(learned, quantize(network, four)(batches[0]))
