from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from tests.detector.released.original_trainer import original_network, save_original
from tests.detector.released.released_package import first_generation, save_released
from torch import Tensor, nn

from quantpipe.detector.checkpoint_family import restore_detector
from quantpipe.detector.checkpoint_file import load_checkpoint, save_checkpoint
from quantpipe.detector.families.yolov6.architecture import Architecture, BlockForm
from quantpipe.detector.families.yolov6.checkpoint import description
from quantpipe.detector.families.yolov6.family import Yolov6Settings, architecture
from quantpipe.detector.families.yolov6.network import Detector, build_detector
from quantpipe.detector.families.yolov6.released import read_released_checkpoint as take
from quantpipe.detector.released.state_dict import write_state_dict
from quantpipe.errors import ArtifactError

CLASSES = ("circle", "square")


@pytest.fixture(scope="module")
def small() -> Architecture:
    return architecture(SMALL, num_classes=len(CLASSES))


def sized(name: str, width: float) -> Yolov6Settings:
    return Yolov6Settings(
        family="yolov6",
        name=name,
        depth=0.33,
        width=width,
        backbone_channels=(64, 128, 256, 512, 1024),
        backbone_repeats=(1, 6, 12, 18, 6),
        neck_channels=(256, 128, 128, 256, 256, 512),
        neck_repeats=(12, 12, 12, 12),
        iou_loss="giou",
        image_size=64,
    )


SMALL = sized("small", 0.125)


def trained(shape: Architecture, form: BlockForm, *, seed: int = 3) -> Detector:
    """Weights that half precision holds exactly, and statistics that are not those of the start."""
    detector = build_detector(shape, form, seed=seed)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for module in detector.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.running_mean.uniform_(-0.2, 0.2, generator=generator)  # type: ignore[union-attr]
                module.running_var.uniform_(0.5, 2.0, generator=generator)  # type: ignore[union-attr]
                module.weight.uniform_(0.5, 1.5, generator=generator)
    for tensor in detector.state_dict().values():
        if tensor.is_floating_point():
            tensor.copy_(tensor.half().float())
    return detector.eval()


def tensors_of(detector: Detector) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in detector.state_dict().items()}


def images() -> Tensor:
    return torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(("name", "width", "millions"), [("n", 0.25, 4.32), ("s", 0.5, 17.23)])
def test_the_networks_have_the_published_number_of_parameters(
    name: str, width: float, millions: float
) -> None:
    detector = build_detector(architecture(sized(name, width), num_classes=80), "repopt", seed=0)
    parameters = sum(parameter.numel() for parameter in detector.parameters())
    trainable = parameters - detector.detect.proj_conv.weight.numel()
    assert trainable / 1e6 == pytest.approx(millions, abs=0.01)


@pytest.mark.parametrize("generation", ["current", "first"])
def test_repopt_weights_load_as_they_are(
    small: Architecture, tmp_path: Path, generation: str
) -> None:
    detector = trained(small, "repopt")
    tensors = tensors_of(detector)
    if generation == "first":
        tensors = first_generation(tensors)
        assert "backbone.ERBlock_5.2.cv1.conv.weight" in tensors
    path = save_released(tmp_path / "public.pt", tensors, ema=None)
    assert "yolov6" not in sys.modules
    read = take(path, SMALL, CLASSES).checkpoint
    assert description(read).form == "repopt"
    for name, tensor in tensors_of(detector).items():
        assert torch.equal(read.tensors[name], tensor), name
    save_checkpoint(tmp_path / "ours.safetensors", read)
    again = restore_detector(load_checkpoint(tmp_path / "ours.safetensors"))
    with torch.no_grad():
        assert torch.equal(again(images()), detector(images()))


@pytest.mark.parametrize("generation", ["current", "first"])
def test_repvgg_weights_are_reparameterized(
    small: Architecture, tmp_path: Path, generation: str
) -> None:
    detector = trained(small, "repvgg")
    tensors = tensors_of(detector)
    tensors = first_generation(tensors) if generation == "first" else tensors
    path = save_released(tmp_path / "public.pt", tensors)
    read = take(path, SMALL, CLASSES).checkpoint
    assert description(read).form == "deploy"
    with torch.no_grad():
        expected = detector.double()(images().double())
        got = restore_detector(read).double()(images().double())
    # Against the largest value: random weights answer with thousands of pixels.
    assert float((got - expected).abs().max() / expected.abs().max()) < 1e-5


def test_fused_blocks_load_beside_convolutions_that_are_not(
    small: Architecture, tmp_path: Path
) -> None:
    """Switched to deployment: ``rbr_reparam`` in the blocks, BatchNorm left elsewhere."""
    detector = trained(small, "repopt")
    tensors = tensors_of(detector)
    for name in list(tensors):
        if not name.endswith(".conv.weight") or ".block.conv." in name:
            continue
        path = name.removesuffix(".conv.weight")
        norm = detector.get_submodule(f"{path}.bn")
        assert isinstance(norm, nn.BatchNorm2d)
        variance = norm.running_var
        assert isinstance(variance, Tensor)
        factor = norm.weight / (variance + norm.eps).sqrt()
        tensors[f"{path}.rbr_reparam.weight"] = (
            tensors.pop(name) * factor.view(-1, 1, 1, 1)
        ).detach()
        tensors[f"{path}.rbr_reparam.bias"] = (norm.bias - norm.running_mean * factor).detach()  # type: ignore[operator]
        for part in ("weight", "bias", "running_mean", "running_var", "num_batches_tracked"):
            tensors.pop(f"{path}.bn.{part}")
    # In half precision on its way: compare with that.
    read = take(save_released(tmp_path / "p.pt", tensors), SMALL, CLASSES).checkpoint
    assert description(read).form == "deploy"
    with torch.no_grad():
        expected, got = detector(images()), restore_detector(read)(images())
    torch.testing.assert_close(got, expected, rtol=2e-2, atol=0.2)


def test_the_average_is_preferred(small: Architecture, tmp_path: Path) -> None:
    model, average = (tensors_of(trained(small, "repopt", seed=seed)) for seed in (1, 2))
    path = save_released(tmp_path / "public.pt", model, ema=average)
    read = take(path, SMALL, CLASSES).checkpoint
    name = "backbone.stem.conv.weight"
    assert torch.equal(read.tensors[name], average[name])
    assert not torch.equal(average[name], model[name])


def test_a_wrong_number_of_classes_is_one_line(small: Architecture, tmp_path: Path) -> None:
    path = save_released(tmp_path / "public.pt", tensors_of(trained(small, "repopt")))
    with pytest.raises(ArtifactError, match=r"has 2 classes, the data set 3 \(a, b, c\)") as fault:
        take(path, SMALL, ("a", "b", "c"))
    assert "\n" not in str(fault.value)


def test_a_missing_an_extra_and_a_misshapen_tensor_are_named(
    small: Architecture, tmp_path: Path
) -> None:
    whole = tensors_of(trained(small, "repopt"))
    name = "neck.Rep_p4.conv1.conv.weight"
    cases = {
        rf"lacks '{name}'": {n: t for n, t in whole.items() if n != name},
        r"has no place for its tensor 'neck.extra.weight'": {
            **whole,
            "neck.extra.weight": torch.ones(3),
        },
        rf"'{name}' is \[1, 2\], in small": {**whole, name: torch.ones(1, 2)},
        rf"'{name}' holds a NaN": {**whole, name: whole[name] * torch.nan},
    }
    for number, (message, tensors) in enumerate(cases.items()):
        path = save_released(tmp_path / f"{number}.pt", tensors)
        with pytest.raises(ArtifactError, match=message):
            take(path, SMALL, CLASSES)


def test_a_model_of_another_size_is_refused(small: Architecture, tmp_path: Path) -> None:
    path = save_released(tmp_path / "public.pt", tensors_of(trained(small, "repopt")))
    with pytest.raises(
        ArtifactError, match=r"YOLOv6 of width 0\.125 of 0\.2, not n; set model\.width="
    ):
        take(path, sized("n", 0.25), CLASSES)


def test_weights_written_back_are_read_by_torch_and_by_us(
    small: Architecture, tmp_path: Path
) -> None:
    detector = trained(small, "repopt")
    path = tmp_path / "state_dict.pt"
    write_state_dict(path, tensors_of(detector))
    plain = torch.load(path, weights_only=True)
    assert {n: t.shape for n, t in plain.items()} == {
        n: t.shape for n, t in detector.state_dict().items()
    }
    read = take(path, SMALL, CLASSES).checkpoint
    assert all(torch.equal(read.tensors[n], t) for n, t in tensors_of(detector).items())


@pytest.mark.parametrize("form", ["repopt", "repvgg"])
@pytest.mark.parametrize("head_folded", [False, True])
def test_a_calibrated_file_gives_its_weights_without_its_quantizers(
    small: Architecture, form: BlockForm, head_folded: bool, tmp_path: Path
) -> None:
    """As a training with quantizers leaves it, and as the sensitivity tool does, head first."""
    detector = trained(small, form)
    with original_network(
        detector,
        calibrated=True,
        folded=lambda path: head_folded and path.startswith("detect."),
        half=False,
    ) as module:
        path = save_original(tmp_path / "calib.pt", module)
        count = sum("quantizer" in name for name in module.state_dict())
    taken = take(path, SMALL, CLASSES)
    # Every convolution, those of the branches and the idle one of the head too, and the pooling.
    assert count == 1 + 2 * sum(
        isinstance(m, nn.Conv2d | nn.ConvTranspose2d) for m in detector.modules()
    )
    assert taken.notes == (
        f"left out: {count} quantizer tensors; calibrate.from_checkpoint reads them",
    )
    kept = form == "repopt" and not head_folded
    assert description(taken.checkpoint).form == ("repopt" if kept else "deploy")
    with torch.no_grad():
        expected = detector.double()(images().double())
        got = restore_detector(taken.checkpoint).double()(images().double())
    assert float((got - expected).abs().max() / expected.abs().max()) < 1e-5
    if kept:
        names = [name for name, _ in detector.named_parameters()]
        exact = {name: detector.get_parameter(name).float() for name in names}
        assert all(torch.equal(taken.checkpoint.tensors[name], exact[name]) for name in names)


def test_a_convolution_with_a_bias_and_a_batch_norm_keeps_its_bias(
    small: Architecture, tmp_path: Path
) -> None:
    """The plain blocks of 0.2.1, ``block.conv`` with a bias: what it adds, the mean takes off."""
    detector = trained(small, "repopt")
    tensors: dict[str, Tensor] = {}
    for name, tensor in tensors_of(detector).items():
        block, _, part = name.rpartition(".bn.")
        plain = bool(block) and not block.endswith(".block")
        if name.endswith(".conv.weight") and ".block.conv." not in name:
            tensors[name.replace(".conv.weight", ".block.conv.weight")] = tensor
            bias = torch.linspace(-1, 1, len(tensor))
            tensors[name.replace(".conv.weight", ".block.conv.bias")] = bias
        elif plain and part == "running_mean":
            added = tensor + torch.linspace(-1, 1, len(tensor))
            tensors[f"{block}.block.bn.{part}"] = added
        else:
            tensors[f"{block}.block.bn.{part}" if plain else name] = tensor
    assert "backbone.stem.block.conv.bias" in tensors
    torch.save({"state_dict": tensors}, tmp_path / "base.pt")
    read = take(tmp_path / "base.pt", SMALL, CLASSES).checkpoint
    assert description(read).form == "deploy"
    with torch.no_grad():
        expected = detector.double()(images().double())
        got = restore_detector(read).double()(images().double())
    assert float((got - expected).abs().max() / expected.abs().max()) < 1e-5


@pytest.mark.parametrize("wrapper", ["", "module."])
def test_a_state_dict_alone_is_read(small: Architecture, wrapper: str, tmp_path: Path) -> None:
    detector = trained(small, "repopt")
    state = {f"{wrapper}{name}": tensor for name, tensor in detector.state_dict().items()}
    torch.save({"state_dict": state, "epoch": 3}, tmp_path / "a.pt")
    read = take(tmp_path / "a.pt", SMALL, CLASSES).checkpoint
    assert all(torch.equal(read.tensors[n], t) for n, t in tensors_of(detector).items())


def test_a_state_dict_that_lacks_a_part_says_which(small: Architecture, tmp_path: Path) -> None:
    state = tensors_of(trained(small, "repopt"))
    headless = {name: tensor for name, tensor in state.items() if "cls_preds" not in name}
    torch.save({"state_dict": headless}, tmp_path / "a.pt")
    with pytest.raises(ArtifactError, match=r"lacks 'detect\.cls_preds\.0\.bias' and 5 more"):
        take(tmp_path / "a.pt", SMALL, CLASSES)


def test_parts_of_a_batch_norm_that_do_not_fit_are_named(
    small: Architecture, tmp_path: Path
) -> None:
    """In a file that is folded in part, before anything is multiplied."""
    with original_network(
        trained(small, "repopt"), calibrated=False, folded=lambda p: p.startswith("detect.")
    ) as module:
        tensors = dict(module.state_dict())
    for part in ("weight", "running_var"):
        tensors[f"backbone.stem.bn.{part}"] = torch.ones(3)
    torch.save({"state_dict": tensors}, tmp_path / "a.pt")
    with pytest.raises(ArtifactError, match=r"no place for its tensor 'backbone\.stem\.bn\."):
        take(tmp_path / "a.pt", SMALL, CLASSES)
