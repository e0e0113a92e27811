"""The scale cache of a network whose weights were trained after calibration."""

from __future__ import annotations

import dataclasses

from torch import nn

from quantpipe.quantization.scale_cache import ScaleCache, TensorScale
from quantpipe.quantization.simulation.network import quantized_operations


def scales_of(network: nn.Module) -> dict[str, TensorScale]:
    """Returns the ranges that a fake-quantized network computes with at this moment.

    With fixed ranges these are the calibrated ones, which the weights have learned to fit.
    """
    operations = quantized_operations(network).values()
    return {s.name: s for operation in operations for s in operation.published_scales()}


def scales_after_training(
    scales: ScaleCache, network: nn.Module, *, weights_digest: str
) -> ScaleCache:
    """Returns the cache for trained weights: the ranges the network was trained with.

    Operations that the plan left in float keep their calibrated ranges.
    """
    return dataclasses.replace(
        scales, scales={**scales.scales, **scales_of(network)}, weights_digest=weights_digest
    )
