"""The ranges of any network, as calibration by the maximum finds them on a few images."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from quantpipe.progress import Silent
from quantpipe.quantization.calibration.collect import collect, solve
from quantpipe.quantization.calibration.weights import weight_scales
from quantpipe.quantization.number_format import INT8
from quantpipe.quantization.operations import find_operations
from quantpipe.quantization.scale_cache import ScaleCache, build_scale_cache
from quantpipe.quantization.shared_ranges import concat_groups, unify


def calibrated_scales(
    network: nn.Module, batches: Sequence[Tensor], *, weights_digest: str = "w" * 64
) -> ScaleCache:
    """Every operation's; those whose tensors meet in a concat have one range."""
    example = batches[0][:1]
    operations = find_operations(network, example)
    statistics = collect(network, operations, batches, progress=Silent())
    amax = solve(statistics, "max", progress=Silent(), number_format=INT8)
    return build_scale_cache(
        unify(amax, concat_groups(network, example)),
        weight_scales(network, operations, "max", progress=Silent(), number_format=INT8),
        method="max",
        weights_digest=weights_digest,
        data_digest="d" * 64,
        preprocessing={"image_size": example.shape[-1]},
        number_format=INT8,
    )
