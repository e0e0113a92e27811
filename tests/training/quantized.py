"""A small detector in the form that is deployed, its ranges, and students made of both."""

import torch
from torch import Tensor

from quantpipe.detector.families.yolov6.architecture import Architecture
from quantpipe.detector.families.yolov6.network import Detector, build_detector, fold_batch_norm
from quantpipe.progress import Silent
from quantpipe.quantization.calibration.collect import collect, solve
from quantpipe.quantization.calibration.weights import weight_scales
from quantpipe.quantization.number_format import INT8
from quantpipe.quantization.operations import find_operations
from quantpipe.quantization.scale_cache import ScaleCache, build_scale_cache
from quantpipe.quantization.shared_ranges import concat_groups, unify
from quantpipe.quantization.simulation.network import quantize_to_train
from quantpipe.quantization.simulation.ranges import Averaged, Fixed, Learned, RangeRule

TINY = Architecture(
    name="tiny",
    depth=0.1,
    width=0.02,
    num_classes=2,
    backbone_channels=(64, 128, 256, 512, 1024),
    backbone_repeats=(1, 6, 12, 18, 6),
    neck_channels=(256, 128, 128, 256, 256, 512),
    neck_repeats=(12, 12, 12, 12),
)

RULES: dict[str, RangeRule] = {
    "fixed": Fixed(),
    "learned": Learned(lr_factor=2.0),
    "ema": Averaged(decay=0.9, frozen_fraction=0.25),
}


def images() -> Tensor:
    """Two of noise."""
    return torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))


def deployed_detector() -> Detector:
    """Its statistics fit its images, or outputs would explode."""
    network = build_detector(TINY, "repopt", seed=0)
    for _ in range(20):
        network.predict(images())
    return fold_batch_norm(network.eval())


def calibrated(deployed: Detector) -> ScaleCache:
    """Its ranges."""
    operations = find_operations(deployed, images()[:1])
    statistics = collect(deployed, operations, [images()], progress=Silent())
    amax = solve(statistics, "max", progress=Silent(), number_format=INT8)
    return build_scale_cache(
        unify(amax, concat_groups(deployed, images()[:1])),
        weight_scales(deployed, operations, "max", progress=Silent(), number_format=INT8),
        method="max",
        weights_digest="weights",
        data_digest="data",
        preprocessing={"image_size": 64},
        number_format=INT8,
    )


def student_of(deployed: Detector, scales: ScaleCache, rule: RangeRule) -> Detector:
    """To train, all operations quantized."""
    groups = concat_groups(deployed, images()[:1])
    return quantize_to_train(deployed, scales, None, rule=rule, groups=groups)
