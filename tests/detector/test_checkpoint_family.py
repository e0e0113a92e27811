"""What a family makes of a checkpoint computes what was saved, and leaves the checkpoint alone."""

from __future__ import annotations

import torch

from quantpipe.detector.checkpoint import Checkpoint
from quantpipe.detector.checkpoint_family import restore_detector
from quantpipe.detector.families.yolov6.architecture import Architecture
from quantpipe.detector.families.yolov6.checkpoint import Description
from quantpipe.detector.families.yolov6.family import input_of
from quantpipe.detector.families.yolov6.network import build_detector


def test_a_restored_detector_computes_the_same_with_its_own_tensors(
    architecture: Architecture,
) -> None:
    original = build_detector(architecture, "repopt", seed=2)
    checkpoint = Checkpoint(
        family="yolov6",
        settings=Description(architecture, "repopt").settings(),
        class_names=("disc", "square", "triangle"),
        input=input_of((64, 64)),
        tensors=original.state_dict(),
        provenance={},
    )
    original.eval()
    restored = restore_detector(checkpoint)
    images = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    assert not restored.training
    assert torch.equal(restored(images), original(images))
    with torch.no_grad():
        restored.get_parameter("backbone.stem.conv.weight").zero_()
    assert checkpoint.tensors["backbone.stem.conv.weight"].any()
