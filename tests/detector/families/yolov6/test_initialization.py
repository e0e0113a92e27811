from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import nn

from quantpipe.detector.families.yolov6.architecture import Architecture, BlockForm
from quantpipe.detector.families.yolov6.network import build_detector


@pytest.mark.parametrize("form", ["repvgg", "linear_add", "repopt", "deploy"])
def test_the_seed_decides_and_nothing_else(architecture: Architecture, form: BlockForm) -> None:
    state = torch.random.get_rng_state()
    first = build_detector(architecture, form, seed=1).state_dict()
    assert torch.equal(state, torch.random.get_rng_state())
    torch.rand(5)
    again = build_detector(architecture, form, seed=1).state_dict()
    other = build_detector(architecture, form, seed=0).state_dict()
    assert all(torch.equal(first[name], tensor) for name, tensor in again.items())
    assert not torch.equal(
        first["detect.stems.0.block.conv.weight"], other["detect.stems.0.block.conv.weight"]
    )


def test_convolutions_keep_the_variance(make_architecture: Callable[..., Architecture]) -> None:
    detector = build_detector(make_architecture(width=0.25), "repopt", seed=1)
    conv = detector.get_submodule("backbone.ERBlock_4.1.conv1.conv")
    assert isinstance(conv, nn.Conv2d)
    assert float(conv.weight.detach().std()) == pytest.approx(math.sqrt(2 / (9 * 128)), rel=0.01)
    up = detector.neck.upsample0.upsample_transpose
    x = torch.randn(4, 64, 8, 8, generator=torch.Generator().manual_seed(0))
    assert float(up(x).detach().std()) == pytest.approx(1.0, rel=0.1)


def test_training_starts_from_the_prior_and_a_box_of_two_cells(architecture: Architecture) -> None:
    detector = build_detector(architecture, "repopt", seed=1)
    images = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        prediction = detector.predict(images)
    assert float(prediction.class_logits.sigmoid().mean()) == pytest.approx(0.01, rel=0.05)
    assert float(prediction.distances.mean()) == pytest.approx(1.0, rel=0.05)
    assert float(prediction.class_logits.std()) > 0.01


def test_every_value_is_set(architecture: Architecture) -> None:
    for tensor in build_detector(architecture, "linear_add", seed=1).state_dict().values():
        assert torch.isfinite(tensor).all()
        assert tensor.device.type == "cpu"
