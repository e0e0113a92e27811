from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING

from tests.precision_plans import all_int8

from quantpipe.quantization.scale_cache import ScaleCache, load_scales, save_scales
from quantpipe.quantization.simulation.network import quantize, quantize_to_train
from quantpipe.quantization.simulation.ranges import Averaged
from quantpipe.quantization.simulation.trained_ranges import (
    scales_after_training,
    scales_of,
)

if TYPE_CHECKING:
    from tests.quantization.conftest import SmallNetwork


AVERAGED = Averaged(decay=0.9, frozen_fraction=0.0)


def test_fixed_ranges_stay_as_calibrated(network: SmallNetwork, scales: ScaleCache) -> None:
    quantized = quantize(network, scales)
    quantized.down.weight.data *= 2.0
    assert scales_of(quantized) == dict(scales.scales)
    trained = scales_after_training(scales, quantized, weights_digest="new")
    assert trained == dataclasses.replace(scales, weights_digest="new")


def test_weight_ranges_follow_the_weights(
    network: SmallNetwork, scales: ScaleCache, tmp_path: Path
) -> None:
    plan = all_int8(scales.operations(), keep_float=["left"])
    quantized = quantize_to_train(network, scales, plan, rule=AVERAGED, groups=())
    quantized.down.weight.data *= 2.0
    trained = scales_after_training(scales, quantized, weights_digest="new")
    assert trained.scales["down.weight"].amax == tuple(
        2.0 * value for value in scales.scales["down.weight"].amax
    )
    assert trained.scales["left.weight"] == scales.scales["left.weight"]
    save_scales(tmp_path / "s.json", trained)
    assert load_scales(tmp_path / "s.json") == trained


def test_bias_corrections_outlast_training(network: SmallNetwork, scales: ScaleCache) -> None:
    corrected = dataclasses.replace(scales, bias_corrections={"left": (0.1,) * 5})
    trained = scales_after_training(corrected, quantize(network, corrected), weights_digest="new")
    assert trained.bias_corrections == corrected.bias_corrections
