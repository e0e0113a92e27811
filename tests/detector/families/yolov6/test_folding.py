from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F  # noqa: N812 (its name everywhere)
from torch import Tensor, nn

from quantpipe.detector.families.yolov6.architecture import BlockForm
from quantpipe.detector.families.yolov6.folding import (
    folded_tensors,
    linear_add_weight,
    merge_rep_vgg,
)
from quantpipe.detector.families.yolov6.layers import LinearAddBlock, RepVggBlock
from quantpipe.detector.families.yolov6.network import Detector, fold_batch_norm


def _randomize(module: nn.Module) -> None:
    generator = torch.Generator().manual_seed(2)
    for name, tensor in module.state_dict().items():
        if tensor.is_floating_point():
            low = 0.5 if name.endswith("running_var") else -1.0
            nn.init.uniform_(tensor, low, 1.0, generator=generator)


CASES = [(8, 8, 1), (8, 8, 2), (8, 16, 1)]


@pytest.mark.parametrize(("c_in", "c_out", "stride"), CASES)
def test_rep_vgg_branches_merge_into_one_3x3(c_in: int, c_out: int, stride: int) -> None:
    block = RepVggBlock(c_in, c_out, stride).double().eval()
    _randomize(block)
    x = torch.rand(2, c_in, 8, 8, dtype=torch.float64)
    weight, bias = merge_rep_vgg(block)
    merged = F.relu(F.conv2d(x, weight, bias, stride=stride, padding=1))
    torch.testing.assert_close(merged, block(x), rtol=1e-10, atol=1e-10)
    weight, bias, x = weight.float(), bias.float(), x.float()
    merged = F.relu(F.conv2d(x, weight, bias, stride=stride, padding=1))
    torch.testing.assert_close(merged, block.float()(x), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("c_in", "c_out", "stride"), CASES)
def test_linear_add_is_one_3x3_before_its_norm(c_in: int, c_out: int, stride: int) -> None:
    block = LinearAddBlock(c_in, c_out, stride).double().eval()
    _randomize(block)
    x = torch.rand(2, c_in, 8, 8, dtype=torch.float64)
    merged = F.conv2d(x, linear_add_weight(block), stride=stride, padding=1)
    torch.testing.assert_close(F.relu(block.bn(merged)), block(x), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("form", ["repvgg", "linear_add", "repopt"])
def test_folded_detector_computes_the_same(
    make_settled: Callable[[BlockForm], Detector], images: Tensor, form: BlockForm
) -> None:
    detector = make_settled(form)
    with torch.no_grad():
        ours, theirs = fold_batch_norm(detector)(images), detector(images)
        torch.testing.assert_close(ours[..., :4], theirs[..., :4], rtol=1e-5, atol=1e-3)
        torch.testing.assert_close(ours[..., 4:], theirs[..., 4:], rtol=1e-5, atol=1e-5)
        raw = fold_batch_norm(detector.double()).predict(images.double())
        exact = detector.predict(images.double())
        torch.testing.assert_close(raw.class_logits, exact.class_logits, rtol=1e-10, atol=1e-10)
        torch.testing.assert_close(raw.distances, exact.distances, rtol=1e-10, atol=1e-10)
    assert exact.class_logits.std() > 1e-3
    assert exact.distances.std() > 1e-3


@pytest.mark.parametrize("form", ["repvgg", "linear_add", "repopt", "deploy"])
def test_folded_detector_is_an_independent_copy_without_norms(
    make_settled: Callable[[BlockForm], Detector], form: BlockForm
) -> None:
    detector = make_settled(form)
    before = {name: tensor.clone() for name, tensor in detector.state_dict().items()}
    folded = fold_batch_norm(detector.train())
    assert folded.form == "deploy"
    assert not folded.training
    assert detector.training
    kinds = (nn.Conv2d, nn.ConvTranspose2d)
    convs = {name: m for name, m in folded.named_modules() if isinstance(m, kinds)}
    assert [name for name, conv in convs.items() if conv.bias is None] == ["detect.proj_conv"]
    assert not any(isinstance(m, nn.BatchNorm2d) for m in folded.modules())
    with torch.no_grad():
        for tensor in folded.state_dict().values():
            tensor.fill_(7)
    assert all(torch.equal(before[name], t) for name, t in detector.state_dict().items())


def test_deployed_weights_can_be_trained(make_settled: Callable[[BlockForm], Detector]) -> None:
    folded = fold_batch_norm(make_settled("repopt"))
    frozen = [name for name, p in folded.named_parameters() if not p.requires_grad]
    assert frozen == ["detect.proj_conv.weight"]


def test_folding_a_deployed_network_only_copies(
    make_settled: Callable[[BlockForm], Detector],
) -> None:
    tensors = make_settled("deploy").state_dict()
    folded = folded_tensors(make_settled("deploy"))
    assert folded.keys() == tensors.keys()
    assert all(torch.equal(folded[name], tensor) for name, tensor in tensors.items())
