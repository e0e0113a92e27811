from pathlib import Path

import pytest
import torch
from tests.yolov6_numbers import narrowed
from torch import Tensor, nn
from torch.nn import functional

from quantpipe.detector.families.yolov6.architecture import Architecture
from quantpipe.detector.families.yolov6.layers import LinearAddBlock
from quantpipe.detector.families.yolov6.network import Detector, build_detector
from quantpipe.detector.families.yolov6.rep_optimizer import (
    BlockScales,
    Scales,
    extract_scales,
    gradient_masks,
    initialize_from_scales,
    load_scales,
    save_scales,
)
from quantpipe.errors import ArtifactError
from quantpipe.training.optimizer import build_sgd, mask_gradients, matched_masks


@pytest.fixture
def search(architecture: Architecture) -> Detector:
    """A linear-add detector whose scales differ from channel to channel."""
    detector = build_detector(architecture, "linear_add", seed=5)
    generator = torch.Generator().manual_seed(6)
    for name, parameter in detector.named_parameters():
        if ".scale_" in name:
            parameter.data.uniform_(0.5, 2.0, generator=generator)
    return detector


@pytest.fixture
def scales(search: Detector) -> Scales:
    return extract_scales(search)


def images(num: int = 2) -> Tensor:
    return torch.rand(num, 3, 64, 64, generator=torch.Generator().manual_seed(0))


def test_scales_are_of_every_block_with_identity_where_there_was_one(
    search: Detector, scales: Scales
) -> None:
    assert len(scales) == sum(isinstance(m, LinearAddBlock) for m in search.modules())
    assert scales["backbone.stem"].identity is None
    sizes = search.state_dict()["backbone.ERBlock_2.1.conv1.conv.weight"].shape
    assert (scales["backbone.ERBlock_2.1.conv1"].identity is not None) == (sizes[0] == sizes[1])
    assert any(scale.identity is not None for scale in scales.values())


def test_first_kernels_compute_what_the_branches_do(
    architecture: Architecture, search: Detector, scales: Scales
) -> None:
    # The seed is the search network's own, so the fresh W3 and W1 are its untrained ones.
    plain = build_detector(architecture, "repopt", seed=9)
    shared = {n: t for n, t in search.state_dict().items() if n in plain.state_dict()}
    plain.load_state_dict(shared)
    initialize_from_scales(plain, scales, seed=5)
    with torch.no_grad():
        ours, theirs = plain.predict(images()), search.predict(images())
    torch.testing.assert_close(ours.features[2], theirs.features[2], rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(ours.class_logits, theirs.class_logits, rtol=1e-3, atol=1e-4)


def test_first_kernels_depend_on_the_seed_only(architecture: Architecture, scales: Scales) -> None:
    detectors = [build_detector(architecture, "repopt", seed=s) for s in (1, 2, 3)]
    for detector, seed in zip(detectors, (7, 7, 8), strict=True):
        initialize_from_scales(detector, scales, seed=seed)
    kernels = [d.state_dict()["neck.Rep_p4.conv1.conv.weight"] for d in detectors]
    assert torch.equal(kernels[0], kernels[1])
    assert not torch.equal(kernels[0], kernels[2])


def test_masks_by_hand(architecture: Architecture) -> None:
    plain = build_detector(architecture, "repopt", seed=0)
    scales = extract_scales(build_detector(architecture, "linear_add", seed=0))
    scales["backbone.stem"].kernel_3x3.fill_(3.0)
    scales["backbone.stem"].kernel_1x1.fill_(2.0)
    masks = gradient_masks(plain, scales)
    stem = masks["backbone.stem.conv.weight"]
    assert torch.equal(stem[0, 0], torch.tensor([[9.0, 9, 9], [9, 13, 9], [9, 9, 9]]))
    square = masks["neck.Rep_p4.block.0.conv.weight"] if "neck.Rep_p4.block.0" in scales else None
    named = square if square is not None else masks["backbone.ERBlock_5.1.conv1.conv.weight"]
    assert torch.equal(named[1, 1], torch.tensor([[1.0, 1, 1], [1, 3, 1], [1, 1, 1]]))
    assert torch.equal(named[1, 2], torch.tensor([[1.0, 1, 1], [1, 2, 1], [1, 1, 1]]))
    assert set(masks) == {f"{block}.conv.weight" for block in scales}


class Branches(nn.Module):
    """A linear-add block without its BatchNorm: s3 and s1 are frozen, the identity is trained."""

    def __init__(self, s3: Tensor, s1: Tensor):
        super().__init__()
        self.s3, self.s1 = s3.view(1, -1, 1, 1), s1.view(1, -1, 1, 1)
        self.conv = nn.Conv2d(6, 6, 3, padding=1, bias=False)
        self.conv_1x1 = nn.Conv2d(6, 6, 1, bias=False)
        # Two dimensions, so that it decays like the kernels do.
        self.identity = nn.Parameter(torch.ones(1, 6))

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.s3 * self.conv(x) + self.s1 * self.conv_1x1(x)
        return y + self.identity.view(1, -1, 1, 1) * x

    def kernel(self) -> Tensor:
        s3, s1 = self.s3.view(-1, 1, 1, 1), self.s1.view(-1, 1, 1, 1)
        kernel = s3 * self.conv.weight + functional.pad(s1 * self.conv_1x1.weight, (1,) * 4)
        kernel[:, :, 1, 1] += self.identity[0].diag()
        return kernel.detach()


@pytest.mark.parametrize("num_steps", [1, 5])
@pytest.mark.parametrize("nesterov", [False, True])
def test_masked_steps_are_steps_of_the_branches(
    architecture: Architecture, num_steps: int, nesterov: bool
) -> None:
    """With constant scales the two trainings are one, weight decay and momentum included."""
    torch_state = torch.get_rng_state()
    torch.manual_seed(0)
    # Eighths: their squares in the float32 mask are exact.
    s3, s1 = (torch.randint(4, 16, (6,)) / 8 for _ in range(2))
    branches = Branches(s3, s1).double()
    torch.set_rng_state(torch_state)
    branches.s3, branches.s1 = branches.s3.double(), branches.s1.double()
    plain = nn.Conv2d(6, 6, 3, padding=1, bias=False).double()
    plain.weight.data.copy_(branches.kernel())
    mask = mask_of(s3, s1).double()

    settings = {"lr": 0.1, "momentum": 0.9, "weight_decay": 0.05}
    first = build_sgd(branches, nesterov=nesterov, **settings)
    second = build_sgd(plain, nesterov=nesterov, **settings)
    masks = matched_masks(plain, {"weight": mask})
    generator = torch.Generator().manual_seed(1)
    for _ in range(num_steps):
        x = torch.randn(3, 6, 7, 7, generator=generator).double()
        wanted = torch.randn(3, 6, 7, 7, generator=generator).double()
        for network, optimizer in ((branches, first), (plain, second)):
            optimizer.zero_grad()
            (network(x) - wanted).square().sum(1).mean().backward()
            if network is plain:
                mask_gradients(masks)
            optimizer.step()
        torch.testing.assert_close(plain.weight.detach(), branches.kernel(), rtol=1e-9, atol=1e-9)


def mask_of(s3: Tensor, s1: Tensor) -> Tensor:
    """The mask that the package computes for a 6-channel block with these scales."""
    architecture = narrowed(depth=0.1, width=0.02, num_classes=1)
    scales = dict(extract_scales(build_detector(architecture, "linear_add", seed=0)))
    name = next(n for n, scale in scales.items() if scale.identity is not None)
    channels = len(scales[name].kernel_3x3)
    pad = torch.ones(channels - 6)
    scales[name] = BlockScales(
        kernel_3x3=torch.cat([s3, pad]),
        kernel_1x1=torch.cat([s1, pad]),
        identity=torch.ones(channels),
    )
    plain = build_detector(architecture, "repopt", seed=0)
    return gradient_masks(plain, scales)[f"{name}.conv.weight"][:6, :6]


def test_saved_scales_come_back(tmp_path: Path, scales: Scales) -> None:
    path = tmp_path / "scales.safetensors"
    save_scales(path, scales)
    loaded = load_scales(path)
    assert set(loaded) == set(scales)
    for block, scale in scales.items():
        for part, tensor in vars(scale).items():
            other = vars(loaded[block])[part]
            assert tensor is other is None or torch.equal(tensor, other)


@pytest.mark.parametrize("keep", [0, 7, 100, -1])
def test_truncated_scales_are_refused(tmp_path: Path, scales: Scales, keep: int) -> None:
    path = tmp_path / "scales.safetensors"
    save_scales(path, scales)
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(ArtifactError, match=r"scales\.safetensors: not readable as scales"):
        load_scales(path)


def test_scales_with_a_nan_are_refused(tmp_path: Path, scales: Scales) -> None:
    scales["backbone.stem"].kernel_3x3[0] = float("nan")
    path = tmp_path / "scales.safetensors"
    save_scales(path, scales)
    with pytest.raises(ArtifactError, match=r"'backbone\.stem\.kernel_3x3' is not a vector of fin"):
        load_scales(path)


def test_a_file_of_other_tensors_is_refused(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    save_file({"stem.weight": torch.ones(3)}, tmp_path / "other.safetensors")
    with pytest.raises(ArtifactError, match="'stem' has weight where kernel_3x3"):
        load_scales(tmp_path / "other.safetensors")


def test_scales_of_another_network_are_refused(architecture: Architecture, scales: Scales) -> None:
    plain = build_detector(architecture, "repopt", seed=0)
    fewer = {block: scale for block, scale in scales.items() if block != "backbone.stem"}
    with pytest.raises(ArtifactError, match="have the same name"):
        gradient_masks(plain, fewer)
    wider = Architecture(**{**vars(architecture), "width": 0.25})
    with pytest.raises(ArtifactError, match="do not fit"):
        initialize_from_scales(build_detector(wider, "repopt", seed=0), scales, seed=0)
