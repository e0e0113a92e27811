import pytest
import torch

from quantpipe.detector.families.yolov6.architecture import Architecture, BlockForm
from quantpipe.detector.families.yolov6.network import build_detector
from quantpipe.training.memory_order import memory_order


@pytest.mark.parametrize(
    ("form", "device", "expected"),
    [
        ("repopt", "cpu", torch.channels_last),
        ("linear_add", "cpu", torch.channels_last),
        ("repvgg", "cpu", torch.contiguous_format),
        ("repvgg", "cuda", torch.channels_last),
    ],
)
def test_branches_that_crash_are_kept_in_plain_order(
    architecture: Architecture, form: BlockForm, device: str, expected: torch.memory_format
) -> None:
    network = build_detector(architecture, form, seed=0)
    assert memory_order(network, channels_last=True, device=torch.device(device)) == expected
    plain = memory_order(network, channels_last=False, device=torch.device(device))
    assert plain == torch.contiguous_format
