from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional

from quantpipe.detector.families.yolov6.network import Detector
from quantpipe.quantization.shared_ranges import concat_groups, unify

if TYPE_CHECKING:
    from tests.quantization.conftest import SmallNetwork


EXAMPLE = torch.rand(1, 3, 32, 32)


def groups_of(network: nn.Module) -> set[frozenset[str]]:
    network.eval()
    with torch.no_grad():
        network(EXAMPLE)  # gives lazy modules their shapes
    return set(concat_groups(network, EXAMPLE))


def test_groups_of_the_small_network(network: SmallNetwork) -> None:
    assert groups_of(network) == {
        frozenset({"pool", "after_pools"}),  # the pool's input and outputs meet in a concat
        frozenset({"down", "after_up"}),  # what `down` reads is concatenated for `after_up`
        frozenset({"left", "right"}),  # one tensor
    }


class Joined(nn.Module):
    """``a`` reads x, and ``b`` the concat of ``passed(x)`` with something else."""

    def __init__(self, passed: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.a = nn.Conv2d(3, 3, 1)
        self.b = nn.LazyConv2d(2, 1)
        self.passed = passed

    def forward(self, images: Tensor) -> Tensor:
        x = images * 2.0
        y = self.passed(x)
        joined: Tensor = self.b(torch.cat([y, torch.ones_like(y)], dim=1))
        alone: Tensor = self.a(x)
        return joined.sum() + alone.sum()


COMMUTING: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": torch.relu,
    "relu in place": lambda x: x.clone().relu_(),
    "max pool": lambda x: functional.max_pool2d(x, 2),
    "nearest": lambda x: functional.interpolate(x, scale_factor=2.0, mode="nearest"),
    "reshape": lambda x: x.reshape(1, 3, 16, 64),
    "permute and copy": lambda x: x.permute(0, 1, 3, 2).contiguous(),
    "slice": lambda x: x[:, :2],
    "split": lambda x: x.chunk(3, dim=1)[1],
    "pad": lambda x: functional.pad(x, (1, 1, 1, 1)),
    "pixel shuffle": lambda x: functional.pixel_unshuffle(x, 2),
    "focus": lambda x: torch.cat([x[..., ::2, ::2], x[..., 1::2, 1::2]], dim=1),
}
CHANGING: dict[str, Callable[[Tensor], Tensor]] = {
    "sigmoid": torch.sigmoid,
    "silu": functional.silu,
    "average": lambda x: functional.avg_pool2d(x, 2),
    "bilinear": lambda x: functional.interpolate(x, scale_factor=2.0, mode="bilinear"),
    "scaled": lambda x: x * 3.0,
}


def test_what_commutes_with_quantization_is_passed_through() -> None:
    for name, passed in COMMUTING.items():
        assert groups_of(Joined(passed)) == {frozenset({"a", "b"})}, name


def test_what_changes_values_is_not_passed_through() -> None:
    for name, passed in CHANGING.items():
        assert groups_of(Joined(passed)) == set(), name


def test_detector_groups_are_the_published_ones(detector: Detector) -> None:
    pairs = [
        ("backbone.ERBlock_5.2.sppf.m", "backbone.ERBlock_5.2.sppf.cv2.block.conv"),
        ("backbone.ERBlock_4.0.conv", "neck.Rep_p3.conv1.conv"),
        ("backbone.ERBlock_5.0.conv", "neck.Rep_p4.conv1.conv"),
        ("neck.upsample0.upsample_transpose", "neck.Rep_n4.conv1.conv"),
        ("neck.upsample1.upsample_transpose", "neck.Rep_n3.conv1.conv"),
        ("neck.downsample2.block.conv", "detect.stems.0.block.conv"),
        ("neck.downsample1.block.conv", "detect.stems.1.block.conv"),
        *(
            (f"detect.cls_convs.{i}.block.conv", f"detect.reg_convs.{i}.block.conv")
            for i in range(3)
        ),
    ]
    assert groups_of(detector) == {frozenset(pair) for pair in pairs}


def test_unify_takes_the_largest_of_each_group() -> None:
    unified = unify({"a": 1.0, "b": 3.0, "c": 2.0}, [frozenset({"a", "b"})])
    assert unified == {"a": 3.0, "b": 3.0, "c": 2.0}
