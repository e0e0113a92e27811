"""A small detector in the form that is deployed, its ranges, and students made of both."""

import torch
from tests.calibrated_scales import calibrated_scales
from tests.yolov6_numbers import narrowed
from torch import Tensor

from quantpipe.detector.families.yolov6.network import Detector, build_detector, fold_batch_norm
from quantpipe.quantization.scale_cache import ScaleCache
from quantpipe.quantization.shared_ranges import concat_groups
from quantpipe.quantization.simulation.network import quantize_to_train
from quantpipe.quantization.simulation.ranges import Averaged, Fixed, Learned, RangeRule

TINY = narrowed(depth=0.1, width=0.02, num_classes=2)

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
    return calibrated_scales(deployed, [images()])


def student_of(deployed: Detector, scales: ScaleCache, rule: RangeRule) -> Detector:
    """To train, all operations quantized."""
    groups = concat_groups(deployed, images()[:1])
    return quantize_to_train(deployed, scales, None, rule=rule, groups=groups)
