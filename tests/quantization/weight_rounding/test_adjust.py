from __future__ import annotations

import dataclasses
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from tests.calibrated_scales import calibrated_scales
from torch import Tensor, nn

from quantpipe.detector.families.yolov6.network import Detector
from quantpipe.errors import DataError, Interrupted, NumericalError
from quantpipe.progress import Silent
from quantpipe.quantization.number_format import INT8
from quantpipe.quantization.records import SavedRecords
from quantpipe.quantization.scale_cache import ScaleCache, TensorScale, build_scale_cache
from quantpipe.quantization.simulation.network import quantize, quantized_operations
from quantpipe.quantization.simulation.rounding import channel_amax
from quantpipe.quantization.weight_rounding.adjust import Adjusted, RoundingChoice, adjust_weights
from quantpipe.quantization.weight_rounding.codes import codes_of
from quantpipe.quantization.weight_rounding.hessian import hessian_rounding
from quantpipe.quantization.weight_rounding.problem import RoundingProblem

if TYPE_CHECKING:
    from tests.quantization.conftest import SmallNetwork

CALLED_ONCE = ("stem", "after_pools", "down", "up", "after_up", "left", "right")


@pytest.fixture
def images(batches: list[Tensor]) -> Tensor:
    return torch.cat(batches)


class Solver:
    """Counts the problems that it solves."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, problem: RoundingProblem) -> Tensor:
        self.calls += 1
        return hessian_rounding(problem, damping=0.01, free_bias=True)


def choice(folder: Path, solve: Any = None, identity: str = "a") -> RoundingChoice:
    return RoundingChoice(
        solve=solve or Solver(),
        num_positions=1000,
        records=SavedRecords(folder=folder, identity=identity),
        seed=0,
    )


def adjust(
    network: SmallNetwork,
    scales: ScaleCache,
    images: Tensor,
    rounding: RoundingChoice | None = None,
    *,
    correct_bias: bool = True,
    progress: Silent | None = None,
) -> Adjusted[SmallNetwork]:
    return adjust_weights(
        network,
        scales,
        images,
        rounding=rounding,
        correct_bias=correct_bias,
        progress=progress or Silent(),
    )


def in_int8(done: Adjusted[SmallNetwork], scales: ScaleCache) -> SmallNetwork:
    return quantize(
        done.network, dataclasses.replace(scales, bias_corrections=done.bias_corrections)
    )


def outputs_of(network: nn.Module, images: Tensor) -> dict[str, Tensor]:
    """What every operation gives."""
    found: dict[str, Tensor] = {}
    hooks = [
        network.get_submodule(name).register_forward_hook(
            lambda _module, _inputs, output, name=name: found.update({name: output.clone()})
        )
        for name in CALLED_ONCE
    ]
    with torch.no_grad():
        network(images)
    for hook in hooks:
        hook.remove()
    return found


def channel_means(network: nn.Module, images: Tensor) -> dict[str, Tensor]:
    found = outputs_of(network, images)
    return {name: output.double().mean(dim=(0, 2, 3)) for name, output in found.items()}


def test_every_output_channel_is_right_on_average(
    network: SmallNetwork, scales: ScaleCache, images: Tensor
) -> None:
    done = adjust(network, scales, images)
    exact = channel_means(network, images)
    plain = channel_means(quantize(network, scales), images)
    corrected = channel_means(in_int8(done, scales), images)
    for name, mean in exact.items():
        torch.testing.assert_close(corrected[name], mean, rtol=0, atol=2e-6)
        assert (plain[name] - mean).abs().max() > 1e-4
    assert set(done.bias_corrections) == set(CALLED_ONCE)


def test_each_is_corrected_behind_its_corrected_predecessors(
    network: SmallNetwork, scales: ScaleCache, images: Tensor
) -> None:
    """One operation after the other, each by passes of its own, gives the same."""
    slow = scales
    exact = channel_means(network, images)
    for name in CALLED_ONCE:
        shift = channel_means(quantize(network, slow), images)[name] - exact[name]
        values = {**slow.bias_corrections, name: tuple((-shift).tolist())}
        slow = dataclasses.replace(slow, bias_corrections=values)
    done = adjust(network, scales, images)
    for name in CALLED_ONCE:
        assert done.bias_corrections[name] == pytest.approx(slow.bias_corrections[name], abs=1e-6)


def test_corrections_alone_leave_the_float_network_as_it_is(
    network: SmallNetwork, scales: ScaleCache, images: Tensor
) -> None:
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    done = adjust(network, scales, images)
    for name, tensor in done.network.state_dict().items():
        assert tensor.equal(before[name])
        assert network.state_dict()[name].equal(before[name])
    assert {adjustment.num_moved for adjustment in done.operations.values()} == {0}
    assert list(done.operations) == list(scales.operations())
    switched_off = in_int8(done, scales)
    for operation in quantized_operations(switched_off).values():
        operation.enabled = False
    with torch.no_grad():
        assert switched_off(images).equal(network(images))


@pytest.mark.parametrize("kept", [np.zeros(3, np.int8), np.zeros((8, 3, 3, 3), np.int16)])
def test_records_that_do_not_fit_are_none(
    network: SmallNetwork, scales: ScaleCache, images: Tensor, tmp_path: Path, kept: Any
) -> None:
    rounding, odd = choice(tmp_path / "none"), choice(tmp_path / "odd")
    name = CALLED_ONCE[0]
    odd.records.write(name, {"codes": kept})
    done = [adjust(network, scales, images, each).network for each in (rounding, odd)]
    first, second = (each.get_parameter(f"{name}.weight") for each in done)
    assert first.equal(second)


def test_chosen_integers_are_those_of_ordinary_rounding(
    network: SmallNetwork, scales: ScaleCache, images: Tensor, tmp_path: Path
) -> None:
    rounding = choice(tmp_path)
    done = adjust(network, scales, images, rounding)
    moved = 0
    for name in CALLED_ONCE:
        weight, scale = (
            done.network.get_parameter(f"{name}.weight"),
            scales.scales[f"{name}.weight"],
        )
        kept = rounding.records.read(name)
        assert kept is not None
        chosen = torch.from_numpy(kept["codes"])
        assert codes_of(weight, scale).equal(chosen)
        before = network.get_parameter(f"{name}.weight")
        other = codes_of(before, scale) != chosen
        assert weight[~other].equal(before[~other])
        assert done.operations[name].num_moved == int(other.sum())
        assert channel_amax(weight, scale.axis).equal(channel_amax(before, scale.axis))
        moved += int(other.sum())
    assert moved > 100


def test_chosen_integers_keep_outputs_better(
    network: SmallNetwork, scales: ScaleCache, images: Tensor, tmp_path: Path
) -> None:
    unseen = torch.rand(4, 3, 32, 32, generator=torch.Generator().manual_seed(99))

    def error(quantized: nn.Module) -> float:
        with torch.no_grad():
            return float((quantized(unseen) - network(unseen)).square().mean())

    plain = error(quantize(network, scales))
    corrected = error(in_int8(adjust(network, scales, images), scales))
    both = error(in_int8(adjust(network, scales, images, choice(tmp_path)), scales))
    assert both < 0.95 * corrected < 0.95 * plain


def test_without_bias_correction_there_is_none(
    network: SmallNetwork, scales: ScaleCache, images: Tensor, tmp_path: Path
) -> None:
    done = adjust(network, scales, images, choice(tmp_path), correct_bias=False)
    assert done.bias_corrections == {}
    assert all(adjustment.shift > 0 for adjustment in done.operations.values())
    for name in CALLED_ONCE:
        assert done.network.get_parameter(f"{name}.bias").equal(
            network.get_parameter(f"{name}.bias")
        )


class StopsAfter(Silent):
    def __init__(self, count: int) -> None:
        self.left = count

    def should_stop(self) -> bool:
        self.left -= 1
        return self.left < 0


@pytest.mark.parametrize("stop", [0, 3, 7])
def test_a_stopped_run_goes_on_where_it_was(
    network: SmallNetwork, scales: ScaleCache, images: Tensor, tmp_path: Path, stop: int
) -> None:
    expected = adjust(network, scales, images, choice(tmp_path / "unbroken"))
    first, second = Solver(), Solver()
    with pytest.raises(Interrupted):
        adjust(network, scales, images, choice(tmp_path / "b", first), progress=StopsAfter(stop))
    found = adjust(network, scales, images, choice(tmp_path / "b", second))
    assert first.calls + second.calls == len(CALLED_ONCE)
    assert first.calls == (stop if stop == 0 else stop - 1)  # the pool is no problem
    assert found.bias_corrections == expected.bias_corrections
    for name, tensor in expected.network.state_dict().items():
        assert found.network.state_dict()[name].equal(tensor)
    other = Solver()
    adjust(network, scales, images, choice(tmp_path / "b", other, identity="b"))
    assert other.calls == len(CALLED_ONCE)


def test_operations_without_a_range_stay_in_float(
    network: SmallNetwork, scales: ScaleCache, images: Tensor, tmp_path: Path
) -> None:
    some = {n: s for n, s in scales.scales.items() if s.operation in ("stem", "down")}
    done = adjust(network, dataclasses.replace(scales, scales=some), images, choice(tmp_path))
    assert set(done.operations) == set(done.bias_corrections) == {"stem", "down"}
    assert done.network.left.weight.equal(network.left.weight)


def test_an_operation_of_several_matrices_keeps_its_integers(tmp_path: Path) -> None:
    network = nn.Sequential(nn.Conv2d(4, 4, 3, groups=2), nn.ReLU()).eval()
    images = torch.rand(2, 4, 8, 8)
    weight = network.get_parameter("0.weight")
    scales = scales_of_one(float(images.max()), channel_amax(weight, 0))
    done = adjust_weights(
        network,
        scales,
        images,
        rounding=choice(tmp_path),
        correct_bias=True,
        progress=Silent(),
    )
    assert done.network.get_parameter("0.weight").equal(weight)
    assert done.operations["0"].num_moved == 0
    assert len(done.bias_corrections["0"]) == 4


def scales_of_one(amax: float, weights: Tensor) -> ScaleCache:
    scale = TensorScale(
        name="0.weight",
        kind="weight",
        axis=0,
        amax=tuple(weights.tolist()),
        number_format=INT8,
        method="max",
    )
    return build_scale_cache(
        {"0": amax},
        {"0.weight": scale},
        method="max",
        weights_digest="w",
        data_digest="d",
        preprocessing={},
        number_format=INT8,
    )


def test_bad_input_is_named(network: SmallNetwork, scales: ScaleCache, images: Tensor) -> None:
    with pytest.raises(DataError, match="no image"):
        adjust(network, scales, images[:0])
    network.down.weight.data[0, 0, 0, 0] = torch.nan
    with pytest.raises(NumericalError, match="operation 'down'"):
        adjust(network, scales, images)


@pytest.mark.slow
def test_a_detector_is_adjusted_whole(detector: Detector, tmp_path: Path) -> None:
    """All 59 operations, the pooling that is called three times among them."""
    images = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    scales = calibrated_scales(detector, [images])
    done = adjust_weights(
        detector,
        scales,
        images,
        rounding=choice(tmp_path, partial(hessian_rounding, damping=1.0, free_bias=True)),
        correct_bias=True,
        progress=Silent(),
    )
    assert len(done.operations) == 59
    assert len(done.bias_corrections) == 59 - 1
    quantized = quantize(
        done.network, dataclasses.replace(scales, bias_corrections=done.bias_corrections)
    )
    for module in (detector, quantized):
        module.eval()
    with torch.no_grad():
        shift = (
            quantized.predict(images).distances.mean() - detector.predict(images).distances.mean()
        )
    assert abs(float(shift)) < 1e-5
