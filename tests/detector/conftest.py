"""Small detectors, and detectors whose BatchNorm has seen data."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F  # noqa: N812 (its name everywhere)
from tests.yolov6_numbers import narrowed
from torch import Tensor, nn

from quantpipe.detector.families.yolov6.architecture import Architecture, BlockForm
from quantpipe.detector.families.yolov6.network import Detector, build_detector

MakeArchitecture = Callable[..., Architecture]
MakeSettled = Callable[[BlockForm], Detector]


def cloudy_images(num: int, height: int, width: int) -> Tensor:
    """Smooth images: unlike noise, they still differ from one another at stride 32."""
    colors = torch.rand(num, 3, 6, 6, generator=torch.Generator().manual_seed(num))
    return F.interpolate(colors, size=(height, width), mode="bilinear")


@pytest.fixture
def images() -> Tensor:
    return cloudy_images(2, 64, 96)


@pytest.fixture
def make_architecture() -> MakeArchitecture:
    def make(*, depth: float = 0.33, width: float = 0.125, num_classes: int = 3) -> Architecture:
        return narrowed(depth=depth, width=width, num_classes=num_classes)

    return make


@pytest.fixture
def architecture(make_architecture: MakeArchitecture) -> Architecture:
    return make_architecture(depth=0.17)


@pytest.fixture
def make_settled(architecture: Architecture) -> MakeSettled:
    """Builds a detector whose BatchNorm statistics and affine parameters are like trained ones."""

    def make(form: BlockForm) -> Detector:
        detector = build_detector(architecture, form, seed=3)
        generator = torch.Generator().manual_seed(4)
        norms = [m for m in detector.modules() if isinstance(m, nn.BatchNorm2d)]
        for norm in norms:
            norm.momentum = 1.0
            nn.init.uniform_(norm.weight, 0.5, 1.5, generator=generator)
            nn.init.uniform_(norm.bias, -0.5, 0.5, generator=generator)
        with torch.no_grad():
            detector.train().predict(cloudy_images(4, 128, 128))
        return detector.eval()

    return make
