"""Ranges of files as the original trainer wrote them are those of the deployed weights, exactly.

The truth is the largest magnitude of each channel of the kernels that torch's own fusion makes.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tests.detector.released.original_trainer import original_network, save_original
from tests.detector.released.released_package import save_released
from tests.stages.conftest import Configure
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from quantpipe.core.artifact import Artifact
from quantpipe.core.stage import Context
from quantpipe.detector.checkpoint import Checkpoint
from quantpipe.detector.checkpoint_family import restore_detector
from quantpipe.detector.families import FAMILIES
from quantpipe.detector.families.yolov6.architecture import operation_names
from quantpipe.detector.families.yolov6.checkpoint import description
from quantpipe.detector.families.yolov6.network import (
    Detector,
    build_detector,
    fold_batch_norm,
)
from quantpipe.errors import ArtifactError
from quantpipe.progress import Silent
from quantpipe.quantization.model_files import SCALES
from quantpipe.quantization.number_format import INT8
from quantpipe.quantization.operations import Operation, find_operations
from quantpipe.quantization.scale_cache import load_scales
from quantpipe.quantization.simulation.rounding import fake_quantize
from quantpipe.stages.calibrate import STAGE
from quantpipe.stages.calibrate.released_ranges import ReleasedRanges, read_released_ranges

NUM_OPERATIONS, NUM_WITH_WEIGHTS, NUM_BATCH_NORMS = 59, 58, 50


class Heard(Silent):
    """Keeps what is noted."""

    def __init__(self) -> None:
        self.notes: list[str] = []

    def note(self, text: str) -> None:
        self.notes.append(text)


@pytest.fixture(scope="module")
def trained_network(trained: Checkpoint) -> Detector:
    """Statistics and gains that make folding matter, of either sign; one channel is dead."""
    detector = build_detector(description(trained).architecture, "repopt", seed=4).eval()
    generator = torch.Generator().manual_seed(4)
    with torch.no_grad():
        for norm in (m for m in detector.modules() if isinstance(m, nn.BatchNorm2d)):
            assert isinstance(norm.running_var, Tensor)
            norm.running_var.uniform_(0.01, 3.0, generator=generator)
            norm.weight.uniform_(-1.5, 1.5, generator=generator)
        detector.get_parameter("neck.Rep_p3.conv1.bn.weight")[1] = 0.0
    return detector


@pytest.fixture(scope="module")
def operations(trained_network: Detector) -> tuple[Operation, ...]:
    return tuple(find_operations(fold_batch_norm(trained_network), torch.zeros(1, 3, 64, 64)))


def fused(network: nn.Module) -> dict[str, Tensor]:
    """The kernels in front of and without a BatchNorm, by torch's own fusion in float64."""
    double = copy.deepcopy(network).double()
    kernels = {}
    for path, module in double.named_modules():
        conv, norm = getattr(module, "conv", None), getattr(module, "bn", None)
        if isinstance(conv, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
            kernels[f"{path}.conv.weight"] = fuse_conv_bn_eval(conv, norm).weight.detach()
        elif isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
            kernels.setdefault(f"{path}.weight", module.weight.detach())
    return kernels


def largest_errors(found: ReleasedRanges, network: nn.Module) -> float:
    """The largest relative error of any range of any channel that is not dead."""
    kernels, errors = fused(network), []
    for name, scale in found.weights.items():
        kernel = kernels[name]
        truth = kernel.abs().amax(dim=(1, 2, 3)) if scale.axis == 0 else kernel.abs().max()[None]
        live = truth > 1e-9
        assert live.sum() >= len(live) - 1
        errors.append(float((torch.tensor(scale.amax)[live] / truth[live] - 1).abs().max()))
    assert len(errors) == NUM_WITH_WEIGHTS
    return max(errors)


def read(path: Path, network: Detector, operations: tuple[Operation, ...]) -> ReleasedRanges:
    released = FAMILIES["yolov6"].implementation().released
    assert released is not None
    return read_released_ranges(path, fold_batch_norm(network), operations, released)


def halved(network: Detector) -> Detector:
    return copy.deepcopy(network).half().float()


@pytest.mark.parametrize(
    ("folded", "num_scaled"),
    [
        (lambda _: False, 50),
        (lambda path: path.startswith("detect."), 41),  # as the sensitivity tool
        (lambda path: not path.startswith("neck."), 20),
        (lambda _: True, 0),
    ],
    ids=["no BatchNorm", "that of the head", "not that of the neck", "all"],
)
@pytest.mark.parametrize("half", [False, True], ids=["single", "half"])
def test_ranges_are_those_of_the_folded_weights_whatever_was_folded(
    trained_network: Detector,
    operations: tuple[Operation, ...],
    folded: Callable[[str], bool],
    num_scaled: int,
    half: bool,
    tmp_path: Path,
) -> None:
    # Half precision is that of the file: the network is the file's, where nothing was folded.
    network = halved(trained_network) if half else trained_network
    with original_network(network, calibrated=True, folded=folded, half=half) as module:
        path = save_original(tmp_path / "calib.pt", module)
    found = read(path, network, operations)
    exact = not half or num_scaled == NUM_BATCH_NORMS
    assert largest_errors(found, network) < (1e-6 if exact else 1e-3)
    said = [note for note in found.notes if "before BatchNorm is folded" in note]
    assert len(said) == (num_scaled > 0)
    assert all(f" {num_scaled} of {NUM_WITH_WEIGHTS} operations" in note for note in said)
    assert set(found.activations) == set(operation_names(network.architecture))
    assert len(found.activations) == NUM_OPERATIONS


def test_unscaled_ranges_would_be_far_off(trained_network: Detector) -> None:
    """What the file says of weights as they stand is not true of those that are deployed."""
    kernels = fused(trained_network)
    ratios = []
    for name, kernel in trained_network.named_parameters():
        if name in kernels and name.endswith("conv.weight") and "proj" not in name:
            stored, true = (k.detach().abs().amax(dim=(1, 2, 3)) for k in (kernel, kernels[name]))
            ratios += (stored / true.clamp_min(1e-9)).tolist()
    assert max(ratios) > 1.5
    assert min(ratios) < 0.5


def test_the_deployed_weights_are_rounded_as_the_toolkit_rounds_its_own(
    trained_network: Detector, operations: tuple[Operation, ...], tmp_path: Path
) -> None:
    """Quantize and fold, as its network does, is fold and quantize with the ranges read."""
    with original_network(trained_network, calibrated=True, half=False) as module:
        path = save_original(tmp_path / "calib.pt", module)
        conv = module.get_submodule("neck.Rep_n3.conv1.conv")
        norm = module.get_submodule("neck.Rep_n3.conv1.bn")
    found = read(path, trained_network, operations)
    name = "neck.Rep_n3.conv1.conv.weight"
    assert isinstance(norm, nn.BatchNorm2d)
    assert isinstance(norm.running_var, Tensor)
    with torch.no_grad():
        factor = norm.weight / (norm.running_var + norm.eps).sqrt()
        theirs = conv._weight_quantizer(conv.weight) * factor.view(-1, 1, 1, 1)  # type: ignore[operator]
        deployed = fold_batch_norm(trained_network).get_parameter(name)
        amax = torch.tensor(found.weights[name].amax)
        ours = fake_quantize(deployed, amax, 0, INT8)
    step = (amax / INT8.max_level).view(-1, 1, 1, 1)
    moved = ((theirs - ours).abs() / step) > 1e-3
    assert moved.float().mean() < 1e-3  # what lies between two levels to the last bit
    assert (ours - deployed).abs().max() > 0


def test_one_range_for_all_channels_becomes_one_for_each(
    trained_network: Detector, operations: tuple[Operation, ...], tmp_path: Path
) -> None:
    """The step of a channel is that of the tensor times what folding multiplies it by."""
    with original_network(trained_network, calibrated=True, half=False, per_tensor=True) as module:
        path = save_original(tmp_path / "calib.pt", module)
    found = read(path, trained_network, operations)
    for name, scale in found.weights.items():
        parent = trained_network.get_submodule(
            name.removesuffix(".conv.weight").removesuffix(".weight")
        )
        norm = getattr(parent, "bn", None)
        whole = trained_network.get_parameter(name).abs().max().double()
        expected = whole.repeat(len(scale.amax))
        if isinstance(norm, nn.BatchNorm2d):
            assert isinstance(norm.running_var, Tensor)
            variance = norm.running_var.double() + 1e-3
            expected = whole * norm.weight.double().abs() / variance.sqrt()
        live = expected > 1e-9
        torch.testing.assert_close(
            torch.tensor(scale.amax).double()[live], expected[live].detach(), rtol=1e-6, atol=0.0
        )


@pytest.mark.parametrize("factor", [0.3, 1.5])
def test_ranges_that_fit_neither_form_are_refused_with_one_line(
    trained_network: Detector, operations: tuple[Operation, ...], factor: float, tmp_path: Path
) -> None:
    with original_network(trained_network, calibrated=True, half=False) as module:
        module.get_buffer("neck.Rep_p4.conv1.conv._weight_quantizer._amax").mul_(factor)
        path = save_original(tmp_path / "calib.pt", module)
    match = r"ranges of 'neck.Rep_p4.conv1.conv' fit neither before nor after BatchNorm is folded"
    with pytest.raises(ArtifactError, match=match) as fault:
        read(path, trained_network, operations)
    assert "\n" not in str(fault.value)
    assert "train_repopt.checkpoint" in str(fault.value)


def test_ranges_of_other_weights_are_refused(
    trained_network: Detector, operations: tuple[Operation, ...], tmp_path: Path
) -> None:
    other = build_detector(trained_network.architecture, "repopt", seed=9)
    with original_network(other, calibrated=True, half=False) as module:
        path = save_original(tmp_path / "calib.pt", module)
    with pytest.raises(ArtifactError, match="fit neither before nor after"):
        read(path, trained_network, operations)


def test_ranges_before_folding_without_their_batch_norm_are_refused(
    trained_network: Detector, operations: tuple[Operation, ...], tmp_path: Path
) -> None:
    with original_network(trained_network, calibrated=True, half=False) as module:
        state = {n: t for n, t in module.state_dict().items() if n.endswith("_amax")}
    path = save_released(tmp_path / "ranges.pt", state)
    with pytest.raises(ArtifactError, match="do not fit: they are off by a factor of"):
        read(path, trained_network, operations)


def test_weights_that_training_moved_a_little_keep_their_ranges(
    trained_network: Detector, operations: tuple[Operation, ...], tmp_path: Path
) -> None:
    """With fixed ranges the weights of a file are no longer exactly those that were measured."""
    moved = copy.deepcopy(trained_network)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, kernel in moved.named_parameters():
            if name.endswith("conv.weight"):
                kernel.mul_(1 + 0.05 * (2 * torch.rand(kernel.shape, generator=generator) - 1))
    with original_network(trained_network, calibrated=True, half=False) as module:
        path = save_original(tmp_path / "calib.pt", module)
    found = read(path, moved, operations)
    assert largest_errors(found, trained_network) < 1e-6


def test_what_has_no_operation_is_counted(
    trained_network: Detector, operations: tuple[Operation, ...], tmp_path: Path
) -> None:
    with original_network(trained_network, calibrated=True) as module:
        neck = module.get_submodule("neck")
        quantizer = module.get_submodule("detect.proj_conv._input_quantizer")
        neck.add_module("upsample_feat0_quant", copy.deepcopy(quantizer))
        path = save_original(tmp_path / "calib.pt", module)
    found = read(path, halved(trained_network), operations)
    (said,) = [note for note in found.notes if "have no use here" in note]
    assert "calib.pt: 3 quantizer tensors" in said
    assert "neck.upsample_feat0_quant._amax" in said


def test_a_file_of_another_size_says_which(
    trained_network: Detector, operations: tuple[Operation, ...], tmp_path: Path
) -> None:
    wider = build_detector(replace(trained_network.architecture, width=0.25), "repopt", seed=0)
    with original_network(wider, calibrated=True) as module:
        path = save_original(tmp_path / "calib.pt", module)
    with pytest.raises(ArtifactError, match=r"it is of YOLOv6-N of 0.2: model=yolov6n"):
        read(path, trained_network, operations)


def test_the_stage_takes_them_and_says_how_many_it_scaled(
    trained: Checkpoint,
    configured: Configure,
    float_model: Artifact,
    context: Context,
    tmp_path: Path,
) -> None:
    network = restore_detector(trained)
    assert isinstance(network, Detector)
    with original_network(network, calibrated=True, half=False) as module:
        path = save_original(tmp_path / "calib.pt", module)
    config = replace(configured("calibrate"), from_checkpoint=path)
    outputs = {key: tmp_path / output.kind.files[0] for key, output in STAGE.outputs.items()}
    heard = Heard()
    STAGE.run(config, {"model": float_model}, outputs, replace(context, progress=heard))
    scales = load_scales(outputs["model"].with_name(SCALES)).scales
    weights = {name: scale for name, scale in scales.items() if scale.kind == "weight"}
    found = ReleasedRanges(activations={}, weights=weights, notes=())
    assert largest_errors(found, network) < 1e-6
    said = f"{NUM_BATCH_NORMS} of {NUM_WITH_WEIGHTS} operations as they are before BatchNorm"
    assert any(said in note for note in heard.notes)
