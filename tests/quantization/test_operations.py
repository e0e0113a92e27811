from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from quantpipe.detector.families.yolov6.architecture import operation_names
from quantpipe.detector.families.yolov6.network import Detector
from quantpipe.quantization.operations import find_operations

if TYPE_CHECKING:
    from tests.quantization.conftest import SmallNetwork


def test_execution_order_and_unused_modules(network: SmallNetwork) -> None:
    operations = find_operations(network, torch.rand(1, 3, 32, 32))
    assert [operation.name for operation in operations] == [
        "stem",
        "pool",
        "after_pools",
        "down",
        "up",
        "after_up",
        "left",
        "right",
    ]
    kinds = {operation.name: operation.kind for operation in operations}
    assert (kinds["stem"], kinds["pool"], kinds["up"]) == ("conv", "max_pool", "conv_transpose")


def test_reads_tell_the_same_tensor_from_another(network: SmallNetwork) -> None:
    operations = {o.name: o for o in find_operations(network, torch.rand(1, 3, 32, 32))}
    assert operations["left"].reads == operations["right"].reads
    assert len(operations["pool"].reads) == 2
    others = [o.reads for name, o in operations.items() if name != "right"]
    assert len(set(others)) == len(others)


def test_an_in_place_change_makes_another_tensor() -> None:
    class InPlace(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.before = nn.Conv2d(3, 3, 1)
            self.after = nn.Conv2d(3, 3, 1)

        def forward(self, images: Tensor) -> Tensor:
            x = images - 0.5
            y: Tensor = self.before(x)
            z: Tensor = self.after(x.relu_())
            return y + z

    before, after = find_operations(InPlace().eval(), torch.rand(1, 3, 8, 8))
    assert before.reads != after.reads


def test_detector_has_its_59_operations(detector: Detector) -> None:
    names = tuple(o.name for o in find_operations(detector, torch.rand(1, 3, 32, 32)))
    assert names == operation_names(detector.architecture)
    assert len(names) == 59
