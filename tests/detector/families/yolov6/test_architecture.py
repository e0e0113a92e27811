from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from quantpipe.detector.families.yolov6.architecture import (
    Architecture,
    operation_names,
    scaled_channels,
    scaled_repeats,
)
from quantpipe.detector.families.yolov6.network import Detector, build_detector
from quantpipe.errors import ConfigurationError


@pytest.mark.parametrize(
    ("base", "width", "channels"),
    [(64, 0.25, 16), (64, 0.375, 24), (1024, 0.5, 512), (128, 0.1, 16), (64, 0.0625, 8)],
)
def test_channels_round_up_to_eights(base: int, width: float, channels: int) -> None:
    assert scaled_channels(base, width) == channels


@pytest.mark.parametrize(
    ("base", "depth", "repeats"),
    [(1, 0.33, 1), (1, 3.0, 1), (6, 0.33, 2), (12, 0.33, 4), (18, 0.33, 6), (6, 0.05, 1)],
)
def test_repeats_round_and_stay_above_zero(base: int, depth: float, repeats: int) -> None:
    assert scaled_repeats(base, depth) == repeats


def _executed(detector: Detector) -> tuple[str, ...]:
    """Returns the names of the operations that run, by first execution."""
    kinds = (nn.Conv2d, nn.ConvTranspose2d, nn.MaxPool2d)
    seen: dict[str, None] = {}

    def remember(name: str) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
        return lambda module, inputs: seen.setdefault(name)

    for name, module in detector.named_modules():
        if isinstance(module, kinds):
            module.register_forward_pre_hook(remember(name))
    detector(torch.zeros(1, 3, 32, 32))
    return tuple(seen)


@pytest.mark.parametrize(("depth", "num"), [(0.33, 59), (0.05, 37), (0.67, 89)])
def test_operation_names_are_those_of_the_deployed_network(
    make_architecture: Callable[..., Architecture], depth: float, num: int
) -> None:
    architecture = make_architecture(depth=depth)
    names = operation_names(architecture)
    assert names == _executed(build_detector(architecture, "deploy", seed=0))
    assert len(names) == len(set(names)) == num


@pytest.mark.parametrize(
    "change",
    [
        {"depth": 0.0},
        {"depth": float("nan")},
        {"width": -1.0},
        {"width": 1e308},
        {"num_classes": 0},
        {"num_classes": 2.5},
        {"backbone_channels": (64, 128, 256, 512)},
        {"backbone_repeats": (1, 6, 12, 18, 10**9)},
        {"neck_channels": (256, 128, 128, 256, 256, 0)},
        {"neck_repeats": (12, 12, 12)},
    ],
)
def test_values_out_of_range_are_named(architecture: Architecture, change: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError) as caught:
        replace(architecture, **change)
    assert caught.value.path == f"model.{next(iter(change))}"


def test_needs_no_torch() -> None:
    module = "quantpipe.detector.families.yolov6.architecture"
    code = f"import sys, {module}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
